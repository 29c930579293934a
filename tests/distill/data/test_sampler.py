"""Which utterances make up which batch: epochs, processes, permutations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import booleans, integers
from lhotse import Recording

from distill.data.manifest import ListedCuts
from distill.data.sampler import EpochSampler, shuffled
from distill.errors import DataError


def of_seconds(*seconds: float) -> ListedCuts:
    """Cuts of these durations, without audio."""
    recording = [
        Recording(id=str(i), sources=[], sampling_rate=16_000, num_samples=round(16_000 * s), duration=s)
        for i, s in enumerate(seconds)
    ]
    return ListedCuts([r.to_cut() for r in recording])


def some(n: int) -> ListedCuts:
    return of_seconds(*np.random.default_rng(0).uniform(1, 15, n).round(2))


def test_every_iteration_is_the_next_epoch():
    sampler, other = EpochSampler(some(50), batch_size=4), EpochSampler(some(50), batch_size=4)
    first, second = list(sampler), list(sampler)
    assert {epoch for epoch, _, _ in first} == {0} and {epoch for epoch, _, _ in second} == {1}
    assert [index for _, index, _ in first] == list(range(13)) and sampler.n_batches() == 13
    other.start_after(1, 0)
    assert list(other) == second


@pytest.mark.parametrize("skip", [0, 1, 5, 12, 13])
def test_an_epoch_is_resumed_once(skip):
    sampler = EpochSampler(some(50), batch_size=4, buckets=2)
    whole = [list(sampler) for _ in range(4)]
    sampler.start_after(2, skip)
    assert [list(sampler), list(sampler)] == [whole[2][skip:], whole[3]]


def test_nothing_is_drawn_before_it_is_asked_for():
    """Lightning may make an iterator that it does not use."""
    sampler = EpochSampler(some(20))
    iter(sampler)
    assert {epoch for epoch, _, _ in sampler} == {0}


@settings(deadline=None)
@given(
    n=integers(1, 300),
    batch_size=integers(1, 12),
    buckets=integers(1, 9),
    world_size=integers(1, 4),
    by_seconds=booleans(),
    shuffle=booleans(),
)
def test_processes_share_every_epoch_exactly(n, batch_size, buckets, world_size, by_seconds, shuffle):
    batch_size *= world_size
    options = {"batch_size": batch_size, "buckets": buckets, "shuffle": shuffle, "world_size": world_size}
    if by_seconds:
        options |= {"batch_seconds": 8.0 * batch_size}
    if n < world_size:
        with pytest.raises(DataError, match="cannot be shared by"):
            EpochSampler(some(n), **options)
        return
    cuts = some(n)
    samplers = [EpochSampler(cuts, rank=rank, **options) for rank in range(world_size)]
    epochs = [[batch for _, _, batch in sampler] for sampler in samplers]
    assert {len(epoch) for epoch in epochs} == {samplers[0].n_batches()}  # equally many steps
    assert all(batch for epoch in epochs for batch in epoch)
    assert sorted(number for epoch in epochs for batch in epoch for number in batch) == list(range(n))
    if not by_seconds:
        sizes = [sum(map(len, parts)) for parts in zip(*epochs, strict=True)]
        assert max(sizes) < batch_size + world_size and sum(size != batch_size for size in sizes) <= 1


@settings(deadline=None)
@given(
    n=integers(8, 300),
    batch_size=integers(1, 4),
    buckets=integers(1, 9),
    processes=integers(1, 4),
    more=integers(1, 4),
    by_seconds=booleans(),
    part=integers(0, 100),
)
def test_other_processes_continue_with_the_utterances_still_to_come(
    n, batch_size, buckets, processes, more, by_seconds, part
):
    options = {"batch_size": 12 * batch_size, "buckets": buckets}
    if by_seconds:
        options |= {"batch_seconds": 8.0 * 12 * batch_size}
    cuts = some(n)
    before = [list(EpochSampler(cuts, rank=r, world_size=processes, **options)) for r in range(processes)]
    skip = part * len(before[0]) // 100
    seen = [name for share in before for _, _, batch in share[:skip] for name in batch]
    later = [EpochSampler(cuts, rank=rank, world_size=more, **options) for rank in range(more)]
    for sampler in later:
        sampler.start_after(0, skip, processes)
    epochs = [list(sampler) for sampler in later]
    assert len({len(epoch) for epoch in epochs}) == 1 and all(b for epoch in epochs for _, _, b in epoch)
    found = seen + [name for epoch in epochs for _, _, batch in epoch for name in batch]
    assert len(found) == len(set(found)) and n - len(found) < more  # of one or three nobody makes four shares
    if epochs[0]:  # stopped again, and resumed once more
        second = EpochSampler(cuts, world_size=more, **options)
        second.start_after(0, epochs[0][0][1] + 1, processes)
        assert list(second) == epochs[0][1:]
    fresh = EpochSampler(cuts, world_size=more, **options)
    fresh.start_after(1, 0)
    assert list(later[0]) == list(fresh)  # the next epoch is like any other


def test_batches_by_seconds_hold_about_as_much():
    cuts = some(5_000)
    sampler = EpochSampler(cuts, batch_seconds=200.0, buckets=20, max_seconds=12.0)
    seconds = [sum(min(cuts[i].duration, 12.0) for i in batch) for _, _, batch in sampler]
    assert abs(np.median(seconds) - 200) < 10 and np.std(seconds) < 20
    lengths = [[cuts[i].duration for i in batch] for _, _, batch in sampler]
    assert np.mean([min(max(of), 12) - min(*of, 12) for of in lengths]) < 2


@settings(deadline=None)
@given(n=integers(1, 3_000), key=integers(0, 2**64 - 1))
def test_a_permutation_holds_everything_once(n, key):
    assert sorted(shuffled(np.arange(n), n, key)) == list(range(n))


def test_permutations_are_uniform():
    """Each place gets each of 10 things equally often: chi-square with 81 degrees of freedom, p = 1e-4."""
    counts = np.zeros((10, 10))
    for key in range(4_000):
        counts[np.arange(10), shuffled(np.arange(10), 10, key)] += 1
    assert ((counts - 400) ** 2 / 400).sum() < 135
    n = 10_000
    drawn = shuffled(np.arange(n), n, 7)
    assert abs(np.corrcoef(np.arange(n), drawn)[0, 1]) < 0.04
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.04
