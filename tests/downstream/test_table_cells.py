"""From what a head says of each utterance to the interval in a table, through the files between them."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.downstream.evaluate import evaluate
from distill.downstream.paper import size_of_test
from distill.downstream.results import read_results
from distill.downstream.tables import build_tables, make_tables
from tests.downstream.made_results import cell, values, write

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


def keep(folder: Path, change: dict, errors, counts=None) -> None:
    """A result with the outcomes of its utterances."""
    (folder / "results").mkdir(parents=True, exist_ok=True)
    counts = np.ones(len(errors)) if counts is None else counts
    number = len(list(folder.glob("results/*.json")))
    rate = 100 * np.sum(errors) / np.sum(counts)
    about = {"value": rate if change.get("metric") == "wer" else 100 - rate, "predictions": f"{number}.tsv"}
    (folder / "results" / f"{number}.json").write_text(json.dumps(values(**(about | change))))
    rows = [f"u{n}\t{e:g}\t{c:g}" for n, (e, c) in enumerate(zip(errors, counts, strict=True))]
    (folder / f"{number}.tsv").write_text("\n".join(["id\terrors\tcount", *rows]) + "\n")


def test_an_interval_stands_in_every_format(tmp_path):
    keep(tmp_path, {}, [1] * 300 + [0] * 2700)
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "ks"]
    low, high = cell(table, "S4", "clean").interval
    half = 196 * (0.1 * 0.9 / 3000) ** 0.5
    assert (low, high) == pytest.approx((90 - half, 90 + half), abs=0.1)
    assert not any("confidence" in note for note in table.notes)
    text = f"90.00 [{low:.2f}, {high:.2f}]"
    assert f"| {text} | 96.27 |" in make_tables([tmp_path])
    assert f"& 90.00 {{[}}{low:.2f}, {high:.2f}{{]}} & 96.27 &" in make_tables([tmp_path], "latex")
    (line,) = csv.DictReader(io.StringIO(make_tables([tmp_path], "csv", measured=True)))
    assert (line["clean low"], line["clean high"]) == (f"{low:.4f}", f"{high:.4f}")


def test_an_interval_of_several_seeds_and_of_error_rates(tmp_path):
    wer = {"task": "asr", "metric": "wer"}
    for seed in range(2):
        keep(tmp_path, wer | {"seed": seed}, [0, 3, 1, 0] * 50, [5, 9, 20, 1] * 50)
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "asr" and not t.lm]
    found = cell(table, "S4", "clean")
    assert found.mean == pytest.approx(100 * 4 / 35)
    assert found.interval[0] < found.mean < found.interval[1] < found.mean + 3


def test_folds_are_drawn_within(tmp_path):
    for fold in range(1, 6):
        size = size_of_test("er", "clean", fold)
        keep(tmp_path, {"task": "er", "fold": fold}, [1] * (size // fold) + [0] * (size - size // fold))
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "er"]
    found = cell(table, "S4", "clean")
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.2, rel=0.2)
    assert found.interval[0] < found.mean < found.interval[1]


def test_missing_outcomes_are_said_once(tmp_path):
    keep(tmp_path, {}, [1, 0, 0])
    write(tmp_path, *({"condition": c, "seed": s, "value": 1.0} for c in ("dns", "fsd") for s in (7, 8)))
    (tmp_path / "0.tsv").write_text("id\terrors\tcount\n")
    notes = [n for t in build_tables(read_results([tmp_path])) for n in t.notes if "confidence" in n]
    assert notes == ["No confidence interval where the outcomes of utterances were not kept: 2 of 2 cells"]


@pytest.mark.parametrize("place", ["../outside.tsv", "/etc/hostname", "results", "no\0name", "gone.tsv"])
def test_outcomes_are_read_from_the_results_own_folder(tmp_path, place):
    run = tmp_path / "run"
    keep(run, {"predictions": place}, [1, 0])
    (tmp_path / "outside.tsv").write_text((run / "0.tsv").read_text())
    (result,) = read_results([run])
    assert result.predictions is None


def test_outcomes_of_another_score_give_no_interval(tmp_path):
    keep(tmp_path, {"value": 51.0}, [1, 0])
    keep(tmp_path, {"seed": 1, "condition": "dns"}, [1, 0, 1])
    keep(tmp_path, {"seed": 2, "condition": "dns"}, [1, 0])
    (table,) = [t for t in build_tables(read_results([tmp_path])) if t.task == "ks"]
    assert (
        "S4, clean: no confidence interval: the outcomes in 0.tsv do not give the score 51.00" in table.notes
    )
    assert "S4, dns: no confidence interval: seeds were tested on different utterances" in table.notes
    assert cell(table, "S4", "clean").interval is cell(table, "S4", "dns").interval is None
