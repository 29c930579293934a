"""Batches: crops, plans, workers, processes, epochs and where a resumed run goes on."""

import logging
import random

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet
from torch.utils.data import DataLoader

from distill.data import (
    HOP,
    EpochSampler,
    NoiseReader,
    SpeechDataset,
    dev_loader,
    open_cuts,
    samples_at_16k,
    train_loader,
)
from distill.distortions import Distorter, DistortionConfig
from distill.errors import DataError

SPEECH = 22  # utterances: no multiple of any batch size here


def ids(cuts) -> list[str]:
    return [cut.id for cut in cuts]


# -------------------------------------------------------------------------------------------------- batches


def dataset(noise_folder=None, **options) -> SpeechDataset:
    """With both views if there is noise for them."""
    if noise_folder is not None:
        source = str(noise_folder)
        options |= {
            "distorter": Distorter.from_config(DistortionConfig()),
            "noises": NoiseReader({"musan": source, "wham": source}),
            "streams": ["student", "teacher"],
        }
    return SpeechDataset(**options)


def by_utterance(batches) -> dict[str, tuple]:
    """Samples and both plans of each utterance, checking that none comes twice."""
    found = {}
    for batch in batches:
        for row, name in enumerate(batch.ids):
            assert name not in found
            views = {stream: (v.plan[row], v.noises[row]) for stream, v in batch.views.items()}
            found[name] = batch.waveforms[row, : batch.lengths[row]], views
    return found


def same(a: dict[str, tuple], b: dict[str, tuple]) -> bool:
    if a.keys() != b.keys():
        return False
    for name, (samples, views) in a.items():
        others = b[name][1]
        if not torch.equal(samples, b[name][0]) or views.keys() != others.keys():
            return False
        for stream, (plan, noise) in views.items():
            other_plan, other_noise = others[stream]
            if plan != other_plan or (noise is None) != (other_noise is None):
                return False
            if noise is not None and not torch.equal(noise, other_noise):
                return False
    return True


def start_behind(made: DataLoader, epoch: int, batches: int) -> None:
    assert isinstance(made.sampler, EpochSampler)
    made.sampler.start_behind(epoch, batches)


def loader(cuts, data, *, epoch: int = 0, batch_size: int = 4, **options):
    made = train_loader(cuts, data, **({"batch_size": batch_size, "buckets": 3, "workers": 0} | options))
    start_behind(made, epoch, 0)
    return made


def test_crops_are_deterministic_on_frame_boundaries_and_of_the_epoch(cuts, speech):
    data = dataset(max_samples=3200, seed=5)
    starts = {}
    for epoch in (0, 1):
        for name in ids(cuts):
            batch = data[epoch, 0, CutSet.from_cuts([cuts[name]])]
            assert torch.equal(batch.waveforms, data[epoch, 0, CutSet.from_cuts([cuts[name]])].waveforms)
            whole = torch.from_numpy(soundfile.read(speech / f"{name}.wav", dtype="float32")[0])
            windows = whole.unfold(0, 3200, HOP)
            (start,) = (windows == batch.waveforms[0]).all(1).nonzero().flatten().tolist()
            starts[name, epoch] = start
    assert sum(starts[name, 0] != starts[name, 1] for name in ids(cuts)) > SPEECH / 2
    fixed = dataset(max_samples=3200, seed=5, fixed_epoch=True)
    first = CutSet.from_cuts([cuts["u00"]])
    assert torch.equal(fixed[7, 0, first].waveforms, data[0, 0, first].waveforms)


def test_crops_can_start_at_both_ends(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.arange(1600) / 3200, 16_000, subtype="FLOAT")
    one = open_cuts(tmp_path)
    starts = {
        float(dataset(max_samples=960, seed=seed)[0, 0, one].waveforms[0, 0] * 3200) for seed in range(40)
    }
    assert starts == {0.0, 320.0, 640.0}


def test_plans_are_those_drawn_outside(cuts, noise_folder):
    data = dataset(noise_folder, seed=3)
    batch = data[2, 0, CutSet.from_cuts(list(cuts)[:6])]
    distorter = Distorter.from_config(DistortionConfig(), split="train")
    for stream in ("student", "teacher"):
        assert batch.views[stream].plan == distorter.plan(batch.ids, seed=3, epoch=2, stream=stream)
        for plan, noise, n in zip(
            batch.views[stream].plan, batch.views[stream].noises, batch.lengths.tolist(), strict=True
        ):
            assert (noise is None) == (plan.noise_corpus is None)
            if noise is not None:
                again = data.noises.noise(plan, n)
                assert again is not None and torch.equal(noise, again)


def test_batches_do_not_depend_on_the_workers(cuts, noise_folder):
    data = dataset(noise_folder, max_samples=8000)
    alone, two = (list(loader(cuts, data, epoch=1, workers=workers)) for workers in (0, 2))
    assert [batch.ids for batch in alone] == [batch.ids for batch in two]
    assert same(by_utterance(alone), by_utterance(two))


def test_an_utterance_is_the_same_in_every_batch(cuts, noise_folder):
    data = dataset(noise_folder, max_samples=8000)
    small, large = (by_utterance(loader(cuts, data, batch_size=size)) for size in (3, 8))
    assert same(small, large)
    assert not same(small, by_utterance(loader(cuts, data, batch_size=3, epoch=1)))


@pytest.mark.parametrize("buckets", [1, 3, 30])
def test_each_utterance_comes_once_an_epoch_in_another_order(cuts, buckets):
    data = dataset()
    orders = []
    for epoch in (0, 1):
        batches = list(loader(cuts, data, epoch=epoch, buckets=buckets, batch_size=4))
        assert len(by_utterance(batches)) == SPEECH
        assert max(map(len, batches)) == 4
        # At most one short batch for each bucket that can fill one.
        assert sum(len(batch) < 4 for batch in batches) <= min(buckets, SPEECH // 4)
        orders.append([batch.ids for batch in batches])
    assert orders[0] != orders[1]
    again = [batch.ids for batch in loader(cuts, data, epoch=1, buckets=buckets)]
    assert again == orders[1]


def test_a_corpus_smaller_than_a_batch(cuts):
    one = CutSet.from_cuts([cuts["u03"]])
    assert [batch.ids for batch in loader(one, dataset(), batch_size=24, buckets=30)] == [["u03"]]


def test_buckets_hold_utterances_of_similar_length(cuts):
    def padding(buckets: int) -> float:
        batches = list(loader(cuts, dataset(), buckets=buckets))
        return sum(batch.waveforms.numel() - int(batch.lengths.sum()) for batch in batches)

    assert padding(5) < 0.6 * padding(1)


def test_batches_are_padded_with_zeros(cuts):
    for batch in loader(cuts, dataset()):
        assert batch.waveforms.shape[1] == batch.lengths.max()
        for wave, length in zip(batch.waveforms, batch.lengths.tolist(), strict=True):
            assert not wave[length:].any() and wave[length - 1] != 0


@pytest.mark.parametrize("batch_size", [4, 8])
def test_processes_share_an_epoch(cuts, batch_size):
    shares = [
        list(loader(cuts, dataset(), rank=rank, world_size=2, batch_size=batch_size)) for rank in (0, 1)
    ]
    assert len(shares[0]) == len(shares[1])
    assert max(len(batch) for share in shares for batch in share) == batch_size // 2
    names = [{name for batch in share for name in batch.ids} for share in shares]
    assert names[0] | names[1] == set(ids(cuts))
    drawn = [name for share in shares for batch in share for name in batch.ids]
    # At the very end lhotse repeats a few, so that both have as many steps.
    assert len(drawn) - SPEECH <= 1
    assert len(names[0] & names[1]) <= len(drawn) - SPEECH


def test_a_batch_that_cannot_be_shared_out(cuts):
    with pytest.raises(DataError, match=r"data.batch_size 10 .* 4 processes: try data.batch_size=8"):
        loader(cuts, dataset(), batch_size=10, world_size=4)


def test_the_dev_set_is_always_the_same_and_complete(cuts, noise_folder):
    data = dataset(noise_folder, fixed_epoch=True)
    made = dev_loader(cuts, data, batch_size=8, workers=0)
    first = list(made)
    start_behind(made, 3, 0)
    second = list(made)
    assert [batch.ids for batch in first] == [batch.ids for batch in second]
    assert [name for batch in first for name in batch.ids] == ids(cuts)
    assert same(by_utterance(first), by_utterance(second))


def test_unusable_utterances_are_left_out_with_a_warning(tmp_path, caplog):
    generator = random.Random(0)
    for name, n_samples in {"good": 1600, "long": 4000, "tiny": 399, "nan": 1600, "gone": 1600}.items():
        values = [float("nan") if name == "nan" else generator.gauss(0, 0.1) for _ in range(n_samples)]
        soundfile.write(tmp_path / f"{name}.wav", np.array(values), 16_000, subtype="FLOAT")
    opened = open_cuts(tmp_path)
    (tmp_path / "gone.wav").unlink()
    data = dataset(
        distorter=Distorter.from_config(DistortionConfig(additive=("gaussian",))), streams=["student"]
    )
    with caplog.at_level(logging.WARNING):
        batch = data[0, 0, opened]
    assert batch.ids == ["good", "long"] and batch.lengths.tolist() == [1600, 4000]
    assert [plan.utterance_id for plan in batch.views["student"].plan] == batch.ids
    for reason in ("tiny: 399 samples, a frame needs 400", "nan: samples are not", "gone: cannot be read"):
        assert f"skipped {reason}" in caplog.text
    hopeless = CutSet.from_cuts([opened["tiny"], opened["nan"]])
    with pytest.raises(DataError, match="not one utterance of a batch could be used; the last: tiny|nan"):
        data[0, 0, hopeless]


def test_cluster_labels_are_those_of_the_crop(cuts, speech):
    labels = {cut.id: np.arange((samples_at_16k(cut) - 400) // HOP + 1).astype(np.int16) for cut in cuts}
    data = dataset(max_samples=3200, targets=labels)
    batch = data[0, 0, CutSet.from_cuts(list(cuts)[:4])]
    assert batch.targets is not None and batch.targets.shape == (4, 9)
    for row, name in enumerate(batch.ids):
        whole = torch.from_numpy(soundfile.read(speech / f"{name}.wav", dtype="float32")[0])
        start = int(batch.targets[row, 0]) * HOP
        assert torch.equal(batch.waveforms[row], whole[start : start + 3200])
        assert batch.targets[row].tolist() == list(range(start // HOP, start // HOP + 9))
    with pytest.raises(DataError, match="no cluster labels for it"):
        dataset(targets={})[0, 0, CutSet.from_cuts([cuts["u00"]])]
    with pytest.raises(DataError, match="labels for .* frames; make the targets again"):
        dataset(targets={"u00": labels["u00"][:-3]})[0, 0, CutSet.from_cuts([cuts["u00"]])]


# -------------------------------------------------------------------------------------------------- sampler


class Numbers:
    """A sampler of five batches."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return iter([f"{self.epoch}:{index}" for index in range(5)])


def epoch_of(number: int, first: int = 0) -> list[tuple[int, int, str]]:
    return [(number, index, f"{number}:{index}") for index in range(first, 5)]


def test_every_iteration_is_the_next_epoch():
    sampler = EpochSampler(Numbers())
    assert [list(sampler), list(sampler)] == [epoch_of(0), epoch_of(1)]


def test_an_epoch_is_gone_on_with_once():
    sampler = EpochSampler(Numbers())
    sampler.start_behind(2, 3)
    assert [list(sampler), list(sampler)] == [epoch_of(2, first=3), epoch_of(3)]


def test_behind_the_last_batch_comes_the_next_epoch():
    sampler = EpochSampler(Numbers())
    sampler.start_behind(2, 5)
    assert [list(sampler), list(sampler)] == [[], epoch_of(3)]


def test_nothing_is_drawn_before_it_is_asked_for():
    """Lightning may make an iterator that it does not use."""
    sampler = EpochSampler(Numbers())
    iter(sampler)
    assert list(sampler) == epoch_of(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_where_it_stopped(cuts, noise_folder, workers):
    data = dataset(noise_folder)
    whole = list(loader(cuts, data, epoch=1))
    resumed = loader(cuts, data, epoch=1, workers=workers)
    start_behind(resumed, 1, 3)
    rest = list(resumed)
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[3:]]
    assert same(by_utterance(rest), by_utterance(whole[3:]))
    assert [batch.position for batch in rest] == [(1, index) for index in range(3, len(whole))]
    following = list(resumed)  # the next epoch, from its beginning
    assert [batch.ids for batch in following] == [batch.ids for batch in loader(cuts, data, epoch=2)]
    assert [batch.position for batch in following] == [(2, index) for index in range(len(following))]
