"""Clipping at a share of an utterance's own extremes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.distortions import clipping


def wave(n_rows: int, n_samples: int) -> torch.Tensor:
    return 0.1 * torch.randn(n_rows, n_samples, generator=torch.Generator().manual_seed(0)) + 0.05


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=4),
    factors=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_invariants(lengths, factors):
    x = wave(len(lengths), max(lengths) + 3)
    x[0, lengths[0] :] = 99.0  # rubbish in the padding must not count as the extreme
    before, factors = x.clone(), factors[: len(lengths)]
    y = clipping.apply(x, torch.tensor(lengths), factors)
    assert torch.equal(x, before)
    assert y.shape == x.shape and y.dtype == torch.float32
    for row, (n, factor) in enumerate(zip(lengths, factors, strict=True)):
        valid = x[row, :n].double().numpy()
        expected = valid.clip(factor * valid.min(), factor * valid.max())
        assert y[row, :n].numpy() == pytest.approx(expected, abs=1e-6)
        assert not y[row, n:].any()


def test_extremes_of_the_factor():
    x = wave(2, 100)
    y = clipping.apply(x, None, torch.tensor([1.0, 0.0]))
    assert torch.equal(y[0], x[0]) and not y[1].any()


def test_a_wave_on_one_side_of_zero_keeps_its_padding():
    x = torch.full((1, 10), 0.5)
    y = clipping.apply(x, [4], [0.6])
    assert y[0].tolist() == pytest.approx([0.3] * 4 + [0.0] * 6)


def test_empty_batch():
    assert clipping.apply(torch.zeros(0, 5), None, []).shape == (0, 5)


@pytest.mark.parametrize("factor", [[1.1], [-0.1], [float("nan")], [0.5, 0.5]])
def test_wrong_factors(factor):
    with pytest.raises(ValueError, match="factor"):
        clipping.apply(torch.zeros(1, 5), None, factor)
