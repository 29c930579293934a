"""From what a head says of each utterance to the interval in a table, through the files between them."""

import csv
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.downstream.evaluate import evaluate
from distill.downstream.tables import make_tables

ODD = ('"yes\u2028x', "no\\t\u2028x")
"""Classes that must come back as they are."""


def cells(folders: list[Path], task: str = "ks") -> dict[str, str]:
    """The measured row of a task."""
    rows = csv.DictReader(io.StringIO(make_tables(folders, "csv", measured=True)))
    (row,) = [row for row in rows if row["task"] == task]
    return row


def by_hand(file: Path, rounds: int = 4000) -> tuple[float, float]:
    """Bounds of the error rate, from the file alone, by drawing rows."""
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")[1:]
    errors, counts = np.array([line.split("\t")[3:] for line in lines], dtype=float).T
    drawn = np.random.default_rng(5).integers(len(lines), size=(rounds, len(lines)))
    return tuple(np.quantile(100 * errors[drawn].sum(1) / counts[drawn].sum(1), [0.025, 0.975]))


@pytest.mark.parametrize("task", ["ks", "pr"])
def test_the_interval_of_a_table_is_that_of_the_utterances(quick, student, tmp_path, task):
    evaluate(student, quick(task, conditions=["clean", "2-dist"], lr=3e-2), tmp_path / "out")
    row = cells([tmp_path / "out"], task)
    for condition in ("clean", "2-dist"):
        (file,) = (tmp_path / "out" / "predictions").glob(f"{task}-*-{condition}.tsv")
        low, high = by_hand(file)
        if task == "ks":
            low, high = 100 - high, 100 - low
        found = float(row[f"{condition} low"]), float(row[f"{condition} high"])
        assert found == pytest.approx((low, high), abs=5.1 if task == "ks" else 2.5)  # 21 words: steps of 4.8
        assert found[0] <= float(row[condition]) <= found[1]


def test_seeds_and_folds_have_an_interval_together(quick, student, tmp_path):
    options = {"conditions": ["clean"], "steps": 1, "every_n_steps": 1, "folds": [1, 3]}
    for seed in (0, 1):
        evaluate(student, quick("er", seed=seed, **options), tmp_path)
    row = cells([tmp_path], "er")
    assert row["clean seeds"] == "2"
    assert float(row["clean low"]) < float(row["clean"]) < float(row["clean high"])


@pytest.fixture
def odd(quick, student, tmp_path) -> Path:
    """An evaluation on utterances and classes with odd names."""
    (tmp_path / "speech").mkdir()
    rows = ["path\tlabel"]
    generator = np.random.default_rng(0)
    for number in range(12):
        name = f"{number} \"x' .\\n.wav"
        soundfile.write(tmp_path / "speech" / name, 0.1 * generator.standard_normal(4000), 16_000)
        rows.append(f"{name}\t{ODD[number % 2]}")
    (tmp_path / "speech" / "all.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    source = str(tmp_path / "speech" / "all.tsv")
    sources = {"train": source, "dev": source, "test": source}
    evaluate(student, quick("ks", sources=sources, conditions=["clean"]), tmp_path / "out")
    return tmp_path / "out"


def test_odd_names_come_back(odd):
    row = cells([odd])
    assert float(row["clean low"]) < float(row["clean high"])


def test_a_folder_that_moves_keeps_its_interval(odd, tmp_path):
    before = make_tables([odd], measured=True)
    assert "[" in before
    shutil.move(odd, tmp_path / "elsewhere")
    assert make_tables([tmp_path / "elsewhere"], measured=True) == before
    assert make_tables([tmp_path / "elsewhere" / "results"], measured=True) == before


def test_outcomes_that_are_not_those_of_the_score_make_none(odd):
    (file,) = (odd / "predictions").iterdir()
    text = file.read_text(encoding="utf-8")
    make_tables([odd])  # read once
    head, first, *rest = text.split("\n")
    cut = first.split("\t")
    cut[3] = str(1 - int(cut[3]))
    file.write_text("\n".join([head, "\t".join(cut), *rest]), encoding="utf-8")
    found = make_tables([odd], measured=True)
    assert "no confidence interval: the outcomes in ks-last-seed0-clean.tsv do not give the score" in found
    file.write_text("\n".join([head, *rest]), encoding="utf-8")
    assert "do not give the score" in make_tables([odd], measured=True)
    file.unlink()
    found = make_tables([odd], measured=True)
    assert "No confidence interval where the outcomes of utterances were not kept: 1 of 1 cells" in found
