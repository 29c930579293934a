"""Moments are those of the data, however it is cut into pieces."""

import functools
import operator

import numpy as np
import pytest
import torch

from distill.analysis.cca.moments import Moments

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(500, 6, generator=GENERATOR) + 1e4
Y = torch.randn(500, 3, generator=GENERATOR) + X[:, :3]


def test_sums_of_pieces_are_those_of_the_whole():
    pieces = [
        Moments.of(x, y) for x, y in zip(X.split([1, 99, 250, 150]), Y.split([1, 99, 250, 150]), strict=True)
    ]
    found = functools.reduce(operator.add, pieces)
    x, y = X.double().numpy(), Y.double().numpy()
    expected = np.cov(np.concatenate([x, y], 1).T) * (len(x) - 1)
    assert found.n == 500
    assert np.allclose(found.mean_x, x.mean(0), rtol=1e-14) and np.allclose(
        found.mean_y, y.mean(0), rtol=1e-14
    )
    assert np.allclose(found.xx, expected[:6, :6], rtol=1e-9, atol=1e-7)
    assert np.allclose(found.xy, expected[:6, 6:], rtol=1e-9, atol=1e-7)
    assert np.allclose(found.yy, expected[6:, 6:], rtol=1e-9, atol=1e-7)


def test_some_columns_of_y():
    found, expected = Moments.of(X, Y).with_y(slice(1, 3)), Moments.of(X, Y[:, 1:3])
    for name in ("mean_y", "xy", "yy"):
        assert torch.allclose(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("y", [Y[:-1], Y[:0]])
def test_views_of_other_lengths_are_refused(y):
    with pytest.raises(ValueError, match="the same number, at least 1"):
        Moments.of(X if len(y) else X[:0], y)
