"""Loaders: workers, processes, epochs, and where a resumed run continues."""

import subprocess
import sys

import pytest
from torch.utils.data import DataLoader

from distill.data.loading import dev_loader, train_loader
from distill.data.sampler import EpochSampler
from distill.errors import DataError
from tests.distill.data.batches import by_utterance, dataset, ids, same


def start_after(made: DataLoader, epoch: int, batches: int) -> None:
    assert isinstance(made.sampler, EpochSampler)
    made.sampler.start_after(epoch, batches)


def loader(data, *, epoch: int = 0, batch_size: int = 4, **options):
    made = train_loader(data, **({"batch_size": batch_size, "buckets": 3, "workers": 0} | options))
    start_after(made, epoch, 0)
    return made


def test_batches_do_not_depend_on_the_workers(cuts, noise_folder):
    data = dataset(cuts, noise_folder, max_samples=8000)
    alone, two = (list(loader(data, epoch=1, workers=workers)) for workers in (0, 2))
    assert [batch.ids for batch in alone] == [batch.ids for batch in two]
    assert same(by_utterance(alone), by_utterance(two))


def test_an_utterance_is_the_same_in_every_batch(cuts, noise_folder):
    data = dataset(cuts, noise_folder, max_samples=8000)
    small, large = (by_utterance(loader(data, batch_size=size)) for size in (3, 8))
    assert same(small, large)
    assert not same(small, by_utterance(loader(data, batch_size=3, epoch=1)))


@pytest.mark.parametrize("buckets", [1, 3, 30])
def test_each_utterance_comes_once_an_epoch_in_another_order(cuts, buckets):
    data = dataset(cuts)
    orders = []
    for epoch in (0, 1):
        batches = list(loader(data, epoch=epoch, buckets=buckets, batch_size=4))
        assert len(by_utterance(batches)) == len(cuts)
        assert max(map(len, batches)) == 4
        assert sum(len(batch) < 4 for batch in batches) == 1  # 22 utterances: five of 4, one of 2
        orders.append([batch.ids for batch in batches])
    assert orders[0] != orders[1]
    again = [batch.ids for batch in loader(data, epoch=1, buckets=buckets)]
    assert again == orders[1]


def test_a_corpus_smaller_than_a_batch(cuts):
    one = dataset([cuts["u03"]])
    assert [batch.ids for batch in loader(one, batch_size=24, buckets=30)] == [["u03"]]


def test_buckets_hold_utterances_of_similar_length(cuts):
    def padding(buckets: int) -> float:
        batches = list(loader(dataset(cuts), buckets=buckets))
        return sum(batch.waveforms.numel() - int(batch.lengths.sum()) for batch in batches)

    assert padding(5) < 0.6 * padding(1)


def test_batches_are_padded_with_zeros(cuts):
    for batch in loader(dataset(cuts)):
        assert batch.waveforms.shape[1] == batch.lengths.max()
        for wave, length in zip(batch.waveforms, batch.lengths.tolist(), strict=True):
            assert not wave[length:].any() and wave[length - 1] != 0


@pytest.mark.parametrize("batch_size", [4, 8])
def test_processes_share_the_batches_of_one(cuts, batch_size):
    whole = list(loader(dataset(cuts), batch_size=batch_size))
    shares = [list(loader(dataset(cuts), rank=rank, world_size=2, batch_size=batch_size)) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1]) == len(whole)
    for together, *parts in zip(whole, *shares, strict=True):
        assert sorted(together.ids) == sorted(name for part in parts for name in part.ids)
        assert all(len(part) <= batch_size // 2 for part in parts)


def test_a_batch_that_cannot_be_shared_out(cuts):
    with pytest.raises(DataError, match=r"data.batch_size 10 .* 4 processes: try data.batch_size=8"):
        loader(dataset(cuts), batch_size=10, world_size=4)


def test_the_dev_set_is_always_the_same_and_complete(cuts, noise_folder):
    data = dataset(cuts, noise_folder, fixed_epoch=True)
    made = dev_loader(data, batch_size=8, workers=0)
    first = list(made)
    start_after(made, 3, 0)
    second = list(made)
    assert [batch.ids for batch in first] == [batch.ids for batch in second]
    assert [name for batch in first for name in batch.ids] == ids(cuts)
    assert same(by_utterance(first), by_utterance(second))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_continues_where_it_stopped(cuts, noise_folder, workers):
    data = dataset(cuts, noise_folder)
    whole = list(loader(data, epoch=1))
    resumed = loader(data, epoch=1, workers=workers)
    start_after(resumed, 1, 3)
    rest = list(resumed)
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[3:]]
    assert same(by_utterance(rest), by_utterance(whole[3:]))
    assert [batch.position for batch in rest] == [(1, index) for index in range(3, len(whole))]
    following = list(resumed)  # the next epoch, from its beginning
    assert [batch.ids for batch in following] == [batch.ids for batch in loader(data, epoch=2)]
    assert [batch.position for batch in following] == [(2, index) for index in range(len(following))]


LEFT_BEHIND = """
from distill.data.loading import batch_loader

batches = iter(batch_loader(range(8), list(range(8)), workers=1))
print(next(batches), flush=True)
raise SystemExit(1)  # with the worker alive and never told to stop
"""


def test_workers_that_an_error_left_behind_end_with_the_process():
    ended = subprocess.run([sys.executable, "-c", LEFT_BEHIND], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "0\n", "")
