"""Figures of CCA: which there are, with which data."""

import csv

import pytest

from distill.analysis.cca.figures import (
    correlation_rows,
    draw_best_layers,
    draw_correlations,
    draw_scatters,
    draw_views,
)
from distill.analysis.cca.tasks import LayerScores


def rows(models=("t1",), views=("mel", "word"), layers=("conv1", "cnn", "0", "1", "2", "3")):
    return [
        {
            "model": m,
            "view": v,
            "layer": n,
            "sample": 0,
            "split": split,
            "score": 0.1 * place + 0.01 * split + 0.02 * number,
        }
        for number, m in enumerate(models)
        for v in views
        for place, n in enumerate(layers)
        for split in range(3)
    ]


SCORES = LayerScores(
    model="t1",
    task="asr",
    metric="wer",
    scores={"0": 50.0, "1": 60.0, "2": 80.0, "3": 70.0},
    all_layers=75.0,
    weights={"0": 0.4, "1": 0.3, "2": 0.2, "3": 0.1},
)


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_figure_for_each_view(tmp_path):
    written = draw_views(rows(), tmp_path)
    assert [path.name for path in written] == [
        f"{v}.{s}" for v in ("mel", "word") for s in ("png", "pdf", "csv")
    ]
    first = table(tmp_path / "mel.csv")[0]
    assert first["layer"] == "conv1" and float(first["cca"]) == pytest.approx(0.01) and first["scores"] == "3"


def test_models_of_other_depth_and_seeds_share_a_figure(tmp_path):
    every = [*rows(("t1",)), *rows(("s1-seed0", "s1-seed1"), layers=("cnn", "0", "1"))]
    draw_views(every, tmp_path)
    assert {row["model"] for row in table(tmp_path / "mel.csv")} == {"t1", "s1-seed0", "s1-seed1"}


def test_correlations_with_tasks(tmp_path):
    found = {row["measure"]: row for row in correlation_rows(rows(), [SCORES])}
    assert found["word"]["rho"] == pytest.approx(0.8) and found["word"]["layers"] == 4
    assert found["layer weights"]["rho"] == pytest.approx(-0.8)
    assert [path.suffix for path in draw_correlations(list(found.values()), tmp_path)] == [
        ".png",
        ".pdf",
        ".csv",
    ]
    assert draw_correlations([found["word"] | {"rho": None}], tmp_path) == []


def test_scatters_and_best_layers(tmp_path):
    draw_scatters(rows(), [SCORES], tmp_path)
    points = table(tmp_path / "task_scatter.csv")
    assert {(row["view"], row["layer"]) for row in points} == {
        (v, n) for v in ("mel", "word") for n in "0123"
    }
    draw_best_layers([SCORES], tmp_path)
    (best,) = table(tmp_path / "best_layers.csv")
    assert best == {
        "model": "t1",
        "task": "asr",
        "all_layers": "75.0",
        "best_layer": "2",
        "best_score": "80.0",
    }
    assert draw_scatters(rows(), [], tmp_path) == draw_best_layers([], tmp_path) == []
