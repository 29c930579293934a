"""The benchmark of CCA runs through, and its straight version finds what ours finds."""

import numpy as np
import pytest

from bench import cca
from distill.analysis.cca import EPSILONS, cross_validate


@pytest.fixture
def small(monkeypatch):
    for name, value in {"LAYERS": 2, "WIDTH": 24, "ROWS": 600, "SPLITS": 2, "FEWER": 10}.items():
        monkeypatch.setattr(cca, name, value)
    monkeypatch.setattr(cca, "TARGETS", {"phones, one-hot": 7, "mel, real": 9})
    monkeypatch.setattr(cca.torch, "set_num_threads", lambda _: None)


@pytest.mark.parametrize("labels", [True, False])
def test_the_straight_version_finds_the_same(small, labels):
    splits = cca.folds(600, 2)
    layers, y = cca.views(7, labels=labels)
    found = cross_validate(layers, y, splits, epsilons=EPSILONS[9:])
    for name, folds in found.items():
        for split, fold in zip(splits, folds, strict=True):
            x_rows, y_rows = (rows.numpy().astype(np.float64) for rows in (layers[name], y))
            other = cca.straight(x_rows, y_rows, split, EPSILONS[9:])
            assert fold.score == pytest.approx(other.score, abs=1e-6)
            assert fold.dev_score == pytest.approx(other.dev_score, abs=1e-9)


def test_targets_are_measured(small, capsys):
    cca.main(None, 2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 layers of 24, 600 instances, 2 splits, 25 pairs: 100 fits"
    assert [line.split()[0] for line in lines if "straight" in line] == ["phones,", "mel,"]
    assert sum("ratio" in line for line in lines) == 2
