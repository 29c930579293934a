"""Time drop: which stretch is silenced."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.distortions import time_drop


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=4),
    numbers=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 500)), min_size=4, max_size=4),
)
def test_invariants(lengths, numbers):
    n_samples = max(lengths) + 3
    x = 1 + torch.rand(len(lengths), n_samples, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    start = [min(a, n_samples) for a, _ in numbers[: len(lengths)]]
    dropped = [min(n, n_samples) for _, n in numbers[: len(lengths)]]
    y = time_drop.apply(x, torch.tensor(lengths), torch.tensor(start), torch.tensor(dropped))
    assert torch.equal(x, before)
    assert y.shape == x.shape and y.dtype == torch.float32
    for row, n in enumerate(lengths):
        gone = [not start[row] <= t < start[row] + dropped[row] and t < n for t in range(n_samples)]
        assert torch.equal(y[row], x[row] * torch.tensor(gone))


@given(n_samples=st.integers(1, 500), n_dropped=st.integers(0, 800), place=st.floats(0, 1, exclude_max=True))
def test_stretches_stay_inside_and_leave_half(n_samples, n_dropped, place):
    start, n = time_drop.stretch(n_samples, n_dropped, place)
    assert n == min(n_dropped, n_samples // 2) and 0 <= start <= n_samples - n


def test_both_ends_can_be_silenced():
    assert [time_drop.stretch(100, 10, place) for place in (0.0, 0.5, 0.999)] == [(0, 10), (45, 10), (90, 10)]


@pytest.mark.parametrize(
    ("start", "dropped", "message"),
    [
        ([6], [0], "start must be between 0 and 5"),
        ([0], [-1], "n_dropped must be between"),
        ([0.5], [1], "integers"),
        ([0, 0], [1, 1], "start must have one value"),
    ],
)
def test_wrong_stretches(start, dropped, message):
    with pytest.raises(ValueError, match=message):
        time_drop.apply(torch.zeros(1, 5), None, start, dropped)
