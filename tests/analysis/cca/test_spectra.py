"""Shared sums and eigenvectors against numpy on each part."""

import numpy as np
import pytest
import torch

from distill.analysis.cca.spectra import TrainingSums, decompose
from distill.errors import UserError


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.standard_normal((90, 7)) @ rng.standard_normal((7, 7)) + 1000.0, rng.standard_normal((90, 3))


def test_sums_of_parts_are_covariances(rows):
    x, y = rows
    training = [np.arange(60), np.arange(20, 90), np.arange(0, 90, 2)]
    sums = TrainingSums(training, torch.from_numpy(y))
    within, cross = sums.of(torch.from_numpy(x))
    for number, chosen in enumerate(training):
        wanted = np.cov(x[chosen].T, y[chosen].T)
        np.testing.assert_allclose(within[number], wanted[:7, :7], rtol=1e-10)
        np.testing.assert_allclose(cross[number], wanted[:7, 7:], rtol=1e-9, atol=1e-10)
    assert len(sums.groups) == 6  # rows that the same parts hold; none is read twice


def test_spectra_are_of_what_an_epsilon_keeps():
    deviations = np.array([1.0, 0.1, 1e-3, 10.0])
    first = np.diag(deviations) @ (0.9 * np.eye(4) + 0.1) @ np.diag(deviations)
    covariances = torch.from_numpy(np.stack([first, np.eye(4), 5 * first]))
    views = decompose(covariances, [1e-9, 1e-3, 0.5], ["a", "b", "c"])
    assert [view.scale for view in views] == pytest.approx([100, 1, 500])
    assert views[0].spectra[1e-3].kept.tolist() == views[2].spectra[1e-3].kept.tolist() == [0, 3]
    assert views[0].spectra[0.5].kept.tolist() == [3] and len(views[1].spectra[0.5].kept) == 4
    for view, covariance in zip(views, covariances, strict=True):
        for spectrum in view.spectra.values():
            rebuilt = spectrum.vectors * spectrum.values @ spectrum.vectors.T
            wanted = covariance[spectrum.kept][:, spectrum.kept] / view.scale
            np.testing.assert_allclose(rebuilt, wanted, atol=1e-12)


def test_an_overflow_is_said():
    with pytest.raises(UserError, match="b: a largest variance of inf is beyond float64"):
        decompose(torch.stack([torch.eye(2), torch.inf * torch.ones(2, 2)]).double(), [1e-5], ["a", "b"])
