import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

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


def test_draws_stay_inside_and_are_uniform():
    n_rows, n_samples = 4000, 16_000
    starts, dropped = time_drop.draw([n_samples] * n_rows, range(n_rows), max_dropped_s=0.1)
    assert min(dropped) >= 0 and max(dropped) <= 1600
    assert all(0 <= a <= n_samples - n for a, n in zip(starts, dropped, strict=True))
    assert kstest(torch.tensor(dropped).numpy() / 1600, "uniform").pvalue > 1e-3
    places = [a / (n_samples - n) for a, n in zip(starts, dropped, strict=True)]
    assert kstest(places, "uniform").pvalue > 1e-3


def test_draws_depend_on_the_seed_alone():
    together = time_drop.draw([900, 5000], [7, 8])
    assert time_drop.draw(torch.tensor([5000]), [8]) == tuple(part[1:] for part in together)
    assert time_drop.draw([5000], [9]) != time_drop.draw([5000], [8])


def test_an_utterance_shorter_than_the_longest_drop():
    for seed in range(50):
        (start,), (n,) = time_drop.draw([3], [seed])
        assert 0 <= start <= start + n <= 3


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


def test_wrong_draws():
    with pytest.raises(ValueError, match="max_dropped_s"):
        time_drop.draw([5], [0], max_dropped_s=-1)
    with pytest.raises(ValueError, match="shorter|longer"):
        time_drop.draw([5], [0, 1])
