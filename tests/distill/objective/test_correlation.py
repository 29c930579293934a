"""Correlations against numpy's, one number at a time; the gradient against differences."""

import numpy as np
import pytest
import torch

from distill.objective.correlation import correlation_loss

B, N, FRAMES, D = 3, 2, 9, 4
LENGTHS = torch.tensor([9, 5, 1])


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Predictions and targets (B, N, F, D) that have something in common, and means that are not 0."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(B, N, FRAMES, D, generator=generator) * 3 + 5
    return targets + torch.randn(B, N, FRAMES, D, generator=generator) - 7, targets


def written_out(predictions, targets, lengths, off_diagonal, self_correlation):
    """(total, cross, own) by loops over numpy's correlation coefficients."""
    crosses, owns = [], []
    for n in range(predictions.shape[1]):
        p, t = (
            np.concatenate([x[b, n, :length].double().numpy() for b, length in enumerate(lengths.tolist())])
            for x in (predictions.detach(), targets)
        )
        dim, cross, own = p.shape[1], 0.0, 0.0
        for i in range(dim):
            for j in range(dim):
                c = np.corrcoef(p[:, i], t[:, j])[0, 1]
                s = np.corrcoef(p[:, i], p[:, j])[0, 1]
                cross += (1 - c) ** 2 if i == j else off_diagonal * c**2
                own += 0.0 if i == j else s**2
        crosses.append(cross / dim)
        owns.append(own / dim)
    return np.mean(crosses) + self_correlation * np.mean(owns), np.mean(crosses), np.mean(owns)


@pytest.mark.parametrize("off_diagonal,self_correlation", [(0.005, 0.005), (0.3, 0.0), (0.0, 2.0)])
def test_it_is_the_formula(pair, off_diagonal, self_correlation):
    weights = {"off_diagonal": off_diagonal, "self_correlation": self_correlation}
    loss = correlation_loss(*pair, LENGTHS, **weights)
    found = [float(loss.total), float(loss.cross), float(loss.own)]
    assert found == pytest.approx(written_out(*pair, LENGTHS, **weights), rel=1e-5)


def test_the_gradient_is_that_of_the_formula(pair):
    predictions, targets = (x.double() for x in pair)
    predictions = predictions.requires_grad_()
    weights = {"off_diagonal": 0.3, "self_correlation": 0.7}
    (gradient,) = torch.autograd.grad(
        correlation_loss(predictions.float(), targets, LENGTHS, **weights).total, predictions
    )
    for place in [(0, 0, 3, 1), (1, 1, 2, 0), (2, 0, 0, 3), (0, 1, 8, 2)]:
        values = []
        for step in (1e-4, -1e-4):
            moved = predictions.detach().clone()
            moved[place] += step
            values.append(written_out(moved, targets, LENGTHS, **weights)[0])
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / 2e-4, rel=2e-3, abs=1e-5)
    assert not gradient[1, :, 5:].any() and not gradient[2, :, 1:].any()


@pytest.mark.parametrize("value", [1e4, float("nan"), float("inf")])
def test_the_padding_changes_nothing(pair, value):
    def gradient(predictions, targets):
        predictions = predictions.clone().requires_grad_()
        loss = correlation_loss(predictions, targets, LENGTHS).total
        loss.backward()
        return loss.detach(), predictions.grad

    broken = [x.clone() for x in pair]
    for x in broken:
        x[1, :, 5:], x[2, :, 1:] = value, value
    for found, expected in zip(gradient(*broken), gradient(*pair), strict=True):
        assert torch.equal(found, expected)


def test_the_same_features_are_as_correlated_as_can_be(pair):
    _, targets = pair
    assert float(correlation_loss(targets, targets, LENGTHS, off_diagonal=0.0).cross) < 1e-10
    assert float(correlation_loss(3 * targets - 1, targets, LENGTHS, off_diagonal=0.0).cross) < 1e-10


def test_a_feature_that_never_changes_is_finite(pair):
    predictions, targets = pair
    predictions[..., 0] = 1.0
    predictions.requires_grad_()
    loss = correlation_loss(predictions, targets, LENGTHS).total
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(predictions.grad).all()


def test_half_precision_is_summed_in_single(pair):
    half = [x.bfloat16() for x in pair]
    with torch.autocast("cpu", torch.bfloat16):
        found = correlation_loss(*half, LENGTHS).total
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, correlation_loss(*(x.float() for x in half), LENGTHS).total)
