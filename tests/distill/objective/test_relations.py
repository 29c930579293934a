"""Temporal Gram matrices against loops, one pair of frames at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from distill.objective.relations import matched_layers, relation_loss

FRAMES, LENGTHS = 6, torch.tensor([6, 3, 1])


def states(n_layers: int, dim: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(len(LENGTHS), FRAMES, dim, generator=generator) + 0.5 for _ in range(n_layers)]


def cosine(x, y) -> float:
    return float(np.dot(x, y) / np.sqrt(np.dot(x, x)) / np.sqrt(np.dot(y, y)))


def written_out(student, teacher) -> tuple[float, float]:
    """(within, between)."""

    def difference(a: int, b: int) -> float:
        total = 0.0
        for row, length in enumerate(LENGTHS.tolist()):
            s, t = ([x[k][row].double().numpy() for k in (a, b)] for x in (student, teacher))
            for i in range(length):
                for j in range(length):
                    error = cosine(s[0][i], s[1][j]) - cosine(t[0][i], t[1][j])
                    total += error**2 / length
        return total / int(LENGTHS.sum())

    layers = range(len(student))
    between = [difference(a, a + 1) for a in layers[:-1]]
    return np.mean([difference(a, a) for a in layers]), np.mean(between) if between else 0.0


@pytest.mark.parametrize("n_layers", [1, 3])
def test_it_is_the_formula_whatever_the_widths(n_layers):
    student, teacher = states(n_layers, 4, seed=0), states(n_layers, 7, seed=1)
    loss = relation_loss(student, teacher, LENGTHS)
    within, between = written_out(student, teacher)
    assert [float(x) for x in (loss.within, loss.between)] == pytest.approx([within, between], rel=1e-5)
    assert float(loss.total) == pytest.approx(within + between, rel=1e-5)
    other = relation_loss(student, teacher, LENGTHS, n_frames=5.0)
    assert float(other.total) * 5 == pytest.approx(float(loss.total) * int(LENGTHS.sum()), rel=1e-5)


def test_turning_and_scaling_the_space_changes_nothing():
    teacher = states(2, 4, seed=1)
    turn = torch.linalg.qr(torch.randn(9, 4, generator=torch.Generator().manual_seed(2)))[0].T
    assert float(relation_loss([3.0 * x @ turn for x in teacher], teacher, LENGTHS).total) < 1e-10


@pytest.mark.parametrize("value", [1e4, float("nan"), float("inf")])
def test_the_padding_changes_neither_loss_nor_gradient(value):
    def gradient(spoilt: bool, extra: int):
        student, teacher = states(2, 4, seed=0), states(2, 7, seed=1)
        if spoilt:
            for x in [*student, *teacher]:
                x[1, 3:], x[2, 1:] = value, value
        student, teacher = ([F.pad(x, (0, 0, 0, extra)) for x in some] for some in (student, teacher))
        student = [x.requires_grad_() for x in student]
        loss = relation_loss(student, teacher, LENGTHS).total
        loss.backward()
        return loss.detach(), [x.grad[:, :FRAMES] for x in student]

    found, expected = gradient(True, 2), gradient(False, 0)
    torch.testing.assert_close(found, expected)
    assert all(torch.isfinite(x).all() and not x[1, 3:].any() for x in found[1])


def test_layers_are_matched_evenly_or_as_told():
    assert matched_layers((), 2, 12) == [0, 6, 12]
    assert matched_layers((), 12, 12) == list(range(13))
    assert matched_layers((), 3, 12) == [0, 4, 8, 12]
    assert matched_layers((4, 9), 2, 12) == [0, 4, 9]
    for wrong in ((4,), (4, 8, 12), (0, 4), (4, 13)):
        with pytest.raises(ValueError, match="objective.relations.layers .* each of the student's 2"):
            matched_layers(wrong, 2, 12)
