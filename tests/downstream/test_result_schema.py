"""Results of strangers: what cannot be one is named and left out, and nothing breaks a table or a card."""

import json
import logging
import os
import subprocess
import sys

import pytest

from distill.cli import main
from distill.downstream.card_scores import make_card_scores
from distill.downstream.finetuning.tables import make_spiral_tables
from distill.downstream.result_schema import check, check_percent
from distill.downstream.results import FINETUNED, read_results
from distill.downstream.tables import make_tables
from tests.downstream.made_results import values, write
from tests.fuzz.evaluations import FINETUNING, PRETRAINING

HUGE = "9" * 400
FIELDS = {
    "number as text": {"value": "90"},
    "number in a list": {"value": [90.0]},
    "no number": {"value": None},
    "NaN": {"value": float("nan")},
    "infinite": {"value": float("inf")},
    "beyond 100 %": {"value": 101.0},
    "below 0": {"value": -0.5},
    "dev beyond 100 %": {"dev": 1e9},
    "huge whole number": {"value": 10**400},
    "huge seed": {"seed": 10**30},
    "text for a seed": {"seed": "0"},
    "fraction of an utterance": {"n_utterances": 0.5},
    "fewer than no utterances": {"n_utterances": -1},
    "fewer than no steps": {"head_steps": -1},
    "nested model": {"model": {"name": "x"}},
    "long name": {"model": "x" * 5000},
    "list of tasks": {"task": ["ks"]},
    "a version that is none": {"versions": {"torch": None}},
    "text that is silent": {"silent": {"noise": "two"}},
    "fewer than none silent": {"silent": {"noise": -5}},
    "silent lists": {"silent": {"noise": [1]}},
    "a list heard": {"heard": [["fsd"]]},
    "an object heard": {"heard": [{}]},
    "settings that are a list": {"settings": [1]},
    "rate as text": {"settings": {"lr": "1e-4"}},
    "huge rate": {"settings": {"lr": 10**400}},
    "steps as text": {"settings": {"every_n_steps": "all"}},
    "batch of NaN": {"settings": {"batch_size": float("nan")}},
    "label of a list": {"settings": {"label": ["word"]}},
    "sources that are a number": {"settings": {"sources": 5}},
    "noises that are a list": {"settings": {"noises": [None]}},
}
FINETUNED_FIELDS = {
    "parameters in a list": {"encoder parameters": [90_617_216]},
    "speech that is a number": {"finetuning speech": 7},
    "speech of numbers": {"finetuning speech": [7]},
    "pre-training speech": {"pretraining": PRETRAINING | {"train": [None]}},
    "average as text": {"pretraining": PRETRAINING | {"ema": {"base": "0.9"}}},
    "masks in a list": {"pretraining": PRETRAINING | {"masking": {"time_probability": [0.5]}}},
    "heads in a list": {"pretraining": PRETRAINING | {"heads": {"projection": ["linear"]}}},
    "huge temperature": {"pretraining": PRETRAINING | {"contrast": {"temperature": 10**400}}},
    "huge shift": {"pretraining": PRETRAINING | {"shift": 10**30}},
}
FILES = {
    "deep": b'{"settings": ' + b"[" * 100_000,
    "rather deep": b'{"settings": ' + b"[" * 900 + b"]" * 900 + b"}",
    "digits": b'{"value": ' + b"9" * 10_000 + b"}",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "a text": b'"task"',
    "nothing": b"",
    "zeros": bytes(100),
    "too large": b'{"task": "' + b"x" * (2 << 20) + b'"}',
    "many lists": b'{"settings": [' + b"[]," * 700_000 + b"[]]}",
}


def _left_out(folder, caplog, content: bytes) -> str:
    """The warning about a file that is left out; the results beside it are in the tables."""
    write(folder, {})
    (folder / "results" / "bad.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert [result.value for result in read_results([folder])] == [90.0]
        for format in ("markdown", "csv", "latex"):
            assert "90.00" in make_tables([folder], format)
    messages = {record.getMessage() for record in caplog.records}
    (message,) = messages
    assert message.startswith(f"skipped {folder}/results/bad.json: not a result") and message.isprintable()
    assert len(message) < 400 + len(str(folder))
    return message


@pytest.mark.parametrize("changes", FIELDS.values(), ids=FIELDS)
def test_a_value_that_none_can_be_is_named(tmp_path, caplog, changes):
    message = _left_out(tmp_path, caplog, json.dumps(values(**changes)).encode())
    assert next(iter(changes)) in message or "noise is -5" in message


@pytest.mark.parametrize("changes", FINETUNED_FIELDS.values(), ids=FINETUNED_FIELDS)
def test_a_fact_of_a_fine_tuned_model_that_none_can_be_is_named(tmp_path, caplog, changes):
    facts = {"task": FINETUNED, "metric": "wer", "condition": "test-clean"}
    message = _left_out(tmp_path, caplog, json.dumps(values(**facts, settings=FINETUNING | changes)).encode())
    assert f"settings.{next(iter(changes))}" in message


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_that_is_no_result_is_named(tmp_path, caplog, content):
    _left_out(tmp_path, caplog, content)


def test_a_pipe_is_not_waited_for(tmp_path, caplog):
    write(tmp_path, {})
    os.mkfifo(tmp_path / "results" / "pipe.json")
    with caplog.at_level(logging.WARNING):
        assert len(read_results([tmp_path])) == 1
    assert "pipe.json is a pipe or a device" in caplog.text


def test_what_is_not_computed_with_may_be_anything(tmp_path):
    """Settings of later versions, and those of ours that are only compared."""
    odd = {"later": [{"x": [None, float("nan")]}, "\ud800\x1b[2J"], "test set": {"a": 1}, "": 5}
    write(tmp_path, {"settings": odd}, {"settings": odd | {"later": 0}, "seed": 1, "condition": "\ud800"})
    for format in ("markdown", "csv", "latex"):
        assert make_tables([tmp_path], format).encode().decode().replace("\n", "").isprintable()
    assert make_card_scores(read_results([tmp_path]))


def test_a_whole_result_of_fine_tuning_is_in_the_papers_row(tmp_path):
    write(
        tmp_path, {"task": FINETUNED, "metric": "wer", "condition": "ns-test-clean", "settings": FINETUNING}
    )
    assert "90.00" in make_spiral_tables([tmp_path])


def test_the_command_says_one_line_about_a_folder_of_damaged_results(tmp_path, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text('{"task": "\\u001b[2J\\n"}')
    assert main(["table", str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"distill: no results in {tmp_path}")


LIMITED = """
import resource, sys
from pathlib import Path
from distill.downstream.results import read_results
from distill.downstream.head_record import read_head
from distill.errors import DamagedFile
import distill.downstream.tables
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (int(sum(resource.getrusage(resource.RUSAGE_SELF)[:2])) + 10,) * 2)
folder = Path(sys.argv[1])
assert read_results([folder]) == []
try:
    read_head(folder)
except DamagedFile as error:
    print(error)
"""


@pytest.mark.slow
def test_bombs_stay_within_two_gigabytes_and_ten_seconds(tmp_path):
    """Four gigabytes that are not there, and the largest JSON of empty lists that is read at all."""
    (tmp_path / "results").mkdir()
    with (tmp_path / "results" / "sparse.json").open("wb") as file:
        file.truncate(4 << 30)
    (tmp_path / "head.json").write_bytes(b'{"a": [' + b"[]," * ((32 << 20) // 3 - 10) + b"[]]}")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "skipped" in done.stderr and "more than 1,024 KiB" in done.stderr


def test_a_check_names_the_value_inside():
    with pytest.raises(ValueError, match=r"a\.x\[1\] is '2'"):
        check({"x": [1, "2"]}, dict[str, list[int]], "a")
    with pytest.raises(ValueError, match="a is True"):
        check(True, float | None, "a")
    check({"x": [1, 2]}, dict[str, list[float]], "a")
    check(None, int | None, "a")
    with pytest.raises(ValueError, match="value is 1e\\+06"):
        check_percent(1e6, "value", error_rate=True)
    check_percent(130.0, "value", error_rate=True)
