"""Rows: differences of models on the same utterances, predictions that can be read again."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from distill.analysis.probes.perturbations import Clean
from distill.analysis.probes.waveform_rows import (
    Heard,
    add_differences,
    machine,
    make_row,
    outcomes_of,
    predictions_of,
    row_key,
    write_predictions,
)
from distill.analysis.recognition import Recognised
from distill.downstream.bootstrap import difference_interval, read_outcomes
from distill.errors import DataError

WRONG = {"a": [1, 0, 2, 1, 0, 1], "b": [2, 1, 2, 2, 0, 2], "c": [0, 0, 0, 0, 0, 1]}
"""Wrong words of two in six utterances, by model."""


def heard(model):
    return {
        f"u{n}": Heard(
            Recognised({"wer": (float(wrong), 2.0), "cer": (1.0, 7.0)}, "one\ttwo", "x"),
            seconds=0.01,
            cpu_s=0.01,
            snr_db=None,
            unchanged=False,
            silent=False,
        )
        for n, wrong in enumerate(WRONG[model])
    }


def row(model, value=0.5):
    rate = 100 * sum(WRONG[model]) / 12
    return {
        "model": model,
        "identity": "i",
        "perturbation": "p",
        "value": value,
        "metric": "wer",
        "wer": rate,
    }


def test_differences_are_paired_and_from_memory_or_from_tables(tmp_path):
    rows = [row("a"), row("b"), row("b", 0.7), row("c")]
    outcomes = {row_key(each): outcomes_of(heard(each["model"]), "wer") for each in rows[:2]}
    for each in (rows[0], rows[3]):
        write_predictions(predictions_of(tmp_path, each), heard(each["model"]))
    assert add_differences(rows, "a", outcomes, tmp_path)
    assert rows[1]["against"] == "a" and rows[1]["difference"] == pytest.approx(100 * 4 / 12)
    assert (rows[1]["difference_low"], rows[1]["difference_high"]) == difference_interval(
        *list(outcomes.values())[::-1]
    )
    assert 0 < rows[1]["difference_low"] < rows[1]["difference"] < rows[1]["difference_high"]
    assert rows[3]["difference"] == pytest.approx(-100 * 4 / 12)
    assert "against" not in rows[0] and "against" not in rows[2]  # nothing to compare it with
    assert not add_differences(rows, "a", {}, tmp_path)
    assert add_differences(rows, "c", outcomes, tmp_path / "") and rows[0]["against"] == "c"


def test_tables_of_predictions_are_read_again(tmp_path):
    path = predictions_of(tmp_path, row("a/../b"[0]))
    write_predictions(path, heard("a"))
    assert path == tmp_path / "predictions" / "a-i" / "p-0.5.tsv"
    assert read_outcomes(path) == outcomes_of(heard("a"), "wer")
    assert path.read_text().splitlines()[1] == "u0\tone\\ttwo\tx\t1\t2\t1\t7\t\t0.01"
    assert ".." not in str(predictions_of(tmp_path, row("a") | {"model": "../x"}))
    with pytest.raises(DataError, match="p-0.9.tsv"):
        add_differences([row("a", 0.9), row("b", 0.9)], "a", {}, tmp_path)


def test_times_are_of_a_busy_machine_if_the_cpu_worked_for_others():
    model = SimpleNamespace(device=torch.device("cpu"))
    recogniser = SimpleNamespace(name="a", identity="i", metrics=("wer",), model=model)
    for cpu_s, busy in ((0.01, False), (0.04, False), (0.006, True)):
        found = {name: replace(each, cpu_s=cpu_s) for name, each in heard("a").items()}
        assert make_row(recogniser, Clean(), found, "audio", [])["busy"] is busy


def test_the_machine_is_named():
    assert f"{torch.get_num_threads()} thread" in machine(torch.device("cpu"))
