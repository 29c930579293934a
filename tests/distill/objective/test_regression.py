"""Eq. 2 against loops that spell it out, torch's own losses, and utterances alone."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F

from distill.objective import distillation_loss

B, N, FRAMES, D = 3, 2, 7, 5
LENGTHS = torch.tensor([7, 4, 1])
EVERY_PART = ("total", "l1", "cosine", "l1_per_layer", "cosine_per_layer")


def features(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


Pair = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture
def pair() -> Pair:
    """Predictions and targets, (B, N, F, D)."""
    return features(B, N, FRAMES, D, seed=0), features(B, N, FRAMES, D, seed=1)


def equation_2(
    predictions: torch.Tensor,
    targets: torch.Tensor,
    lengths: torch.Tensor,
    gamma: float,
    layers: Sequence[int] = range(N),
) -> float:
    """The paper's sum over utterances, layers and frames, one number at a time."""
    total = 0.0
    for b, length in enumerate(lengths.tolist()):
        for n in layers:
            for t in range(length):
                p, h = predictions[b, n, t].tolist(), targets[b, n, t].tolist()
                dot = sum(x * y for x, y in zip(p, h, strict=True))
                cosine = dot / math.sqrt(sum(x * x for x in p)) / math.sqrt(sum(y * y for y in h))
                total += sum(abs(x - y) for x, y in zip(p, h, strict=True)) / len(p)
                total -= gamma * math.log(1 / (1 + math.exp(-cosine)))
    return total


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_a_constant_times_equation_2(pair: Pair, gamma):
    loss = distillation_loss(*pair, LENGTHS, cosine_weight=gamma)
    constant = N * int(LENGTHS.sum())
    assert float(loss.total) == pytest.approx(equation_2(*pair, LENGTHS, gamma) / constant, rel=1e-5)


def test_without_padding_it_is_the_mean_of_l1_and_log_sigmoid_cosine(pair: Pair):
    predictions, targets = pair
    loss = distillation_loss(predictions, targets, torch.full((B,), FRAMES))
    cosine = -F.logsigmoid(F.cosine_similarity(predictions, targets, dim=-1)).mean()
    torch.testing.assert_close(loss.l1, F.l1_loss(predictions, targets))
    torch.testing.assert_close(loss.cosine, cosine)
    torch.testing.assert_close(loss.total, F.l1_loss(predictions, targets) + cosine)


def test_parts_per_layer(pair: Pair):
    loss = distillation_loss(*pair, LENGTHS)
    for n in range(N):
        expected = equation_2(*pair, LENGTHS, 1.0, layers=[n]) / int(LENGTHS.sum())
        assert float(loss.l1_per_layer[n] + loss.cosine_per_layer[n]) == pytest.approx(expected, rel=1e-5)
    assert loss.l1_per_layer.shape == loss.cosine_per_layer.shape == (N,)
    torch.testing.assert_close(loss.l1_per_layer.mean(), loss.l1)
    torch.testing.assert_close(loss.cosine_per_layer.mean(), loss.cosine)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["targets", "predictions"])
def test_what_is_not_finite_in_the_padding_reaches_neither_loss_nor_gradient(pair: Pair, value, where):
    def gradient(broken: bool) -> tuple[torch.Tensor, torch.Tensor]:
        predictions, targets = (x.clone() for x in pair)
        if broken:
            spoilt = targets if where == "targets" else predictions
            spoilt[1, :, 4:], spoilt[2, :, 1:] = value, value
        predictions.requires_grad_()
        loss = distillation_loss(predictions, targets, LENGTHS).total
        loss.backward()
        assert predictions.grad is not None
        return loss.detach(), predictions.grad

    for found, expected in zip(gradient(True), gradient(False), strict=True):
        assert torch.equal(found, expected)


def test_padding_changes_nothing(pair: Pair):
    """Neither its length nor what is in it."""
    plain = distillation_loss(*pair, LENGTHS)
    predictions, targets = (F.pad(x, (0, 0, 0, 3)) for x in pair)
    for row, length in enumerate(LENGTHS.tolist()):
        predictions[row, :, length:] = 1e4
        targets[row, :, length:] = float("nan")
    predictions.requires_grad_()
    loss = distillation_loss(predictions, targets, LENGTHS)
    for part in EVERY_PART:
        torch.testing.assert_close(getattr(loss, part), getattr(plain, part))
    (gradient,) = torch.autograd.grad(loss.l1, predictions)
    assert all(not gradient[row, :, length:].any() for row, length in enumerate(LENGTHS.tolist()))


def test_n_frames_is_the_divisor(pair: Pair):
    loss = distillation_loss(*pair, LENGTHS)
    for n_frames in (5.0, torch.tensor(5.0)):
        other = distillation_loss(*pair, LENGTHS, n_frames=n_frames)
        for part in EVERY_PART:
            torch.testing.assert_close(getattr(other, part) * 5, getattr(loss, part) * LENGTHS.sum())


def test_half_precision_is_summed_in_single(pair: Pair):
    predictions, targets = (x.bfloat16() for x in pair)
    full = distillation_loss(predictions.float(), targets.float(), LENGTHS)
    half = distillation_loss(predictions, targets, LENGTHS)
    assert half.total.dtype == torch.float32
    torch.testing.assert_close(half.total, full.total)


@pytest.mark.parametrize("shape", [(B, N, FRAMES - 1, D), (B, N + 1, FRAMES, D)])
def test_shapes_must_agree(pair: Pair, shape):
    with pytest.raises(ValueError, match=r"must both be \(B, N, F, D\)"):
        distillation_loss(pair[0], torch.zeros(shape), LENGTHS)
    with pytest.raises(ValueError, match=r"must both be \(B, N, F, D\)"):
        distillation_loss(pair[0][:, 0], pair[1][:, 0], LENGTHS)
