"""Batches: crops, plans, workers, processes, epochs and where a resumed run goes on."""

import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis.strategies import booleans, integers
from lhotse import AudioSource, Recording
from lhotse.utils import fastcopy
from torch.utils.data import DataLoader

from distill.data.audio import samples_at_16k
from distill.data.dataset import SpeechDataset
from distill.data.loading import dev_loader, train_loader
from distill.data.manifest import ListedCuts
from distill.data.noise import NoiseReader
from distill.data.sampler import EpochSampler, shuffled
from distill.data.sources import open_cuts
from distill.distortions import Distorter, DistortionConfig
from distill.distortions.plan import LABELS
from distill.errors import DataError
from distill.hubert import HubertConfig

SPEECH = 22  # utterances: no multiple of any batch size here


def ids(cuts) -> list[str]:
    return [cut.id for cut in cuts]


SLOW = HubertConfig(conv_layers=(*HubertConfig().conv_layers, (512, 2, 2)))  # 25 frames a second

# -------------------------------------------------------------------------------------------------- batches


def dataset(cuts, noise_folder=None, **options) -> SpeechDataset:
    """With both views if there is noise for them."""
    if noise_folder is not None:
        source = str(noise_folder)
        options |= {
            "distorter": Distorter.from_config(DistortionConfig()),
            "noises": NoiseReader({"musan": source, "wham": source}),
            "streams": ["student", "teacher"],
        }
    return SpeechDataset(ListedCuts(list(cuts)), **options)


def one_batch(data: SpeechDataset, epoch: int = 0, *names: str):
    """A batch of the named utterances, or of all."""
    numbers = [i for i in range(len(data.cuts)) if not names or data.cuts[i].id in names]
    return data[epoch, 0, numbers]


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


def loader(data, *, epoch: int = 0, batch_size: int = 4, **options):
    made = train_loader(data, **({"batch_size": batch_size, "buckets": 3, "workers": 0} | options))
    start_behind(made, epoch, 0)
    return made


def test_crops_are_deterministic_on_frame_boundaries_and_of_the_epoch(cuts, speech):
    data = dataset(cuts, max_samples=3200, seed=5)
    starts = {}
    for epoch in (0, 1):
        for name in ids(cuts):
            batch = one_batch(data, epoch, name)
            assert torch.equal(batch.waveforms, one_batch(data, epoch, name).waveforms)
            whole = torch.from_numpy(soundfile.read(speech / f"{name}.wav", dtype="float32")[0])
            windows = whole.unfold(0, 3200, HubertConfig().hop)
            (start,) = (windows == batch.waveforms[0]).all(1).nonzero().flatten().tolist()
            starts[name, epoch] = start
    assert sum(starts[name, 0] != starts[name, 1] for name in ids(cuts)) > SPEECH / 2
    fixed = dataset(cuts, max_samples=3200, seed=5, fixed_epoch=True)
    assert torch.equal(one_batch(fixed, 7, "u00").waveforms, one_batch(data, 0, "u00").waveforms)


def test_crops_can_start_at_both_ends(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.arange(1600) / 3200, 16_000, subtype="FLOAT")
    one = open_cuts(tmp_path)
    starts = {
        float(dataset(one, max_samples=960, seed=seed)[0, 0, [0]].waveforms[0, 0] * 3200)
        for seed in range(40)
    }
    assert starts == {0.0, 320.0, 640.0}


def test_plans_are_those_drawn_outside(cuts, noise_folder):
    data = dataset(cuts, noise_folder, seed=3)
    batch = data[2, 0, range(6)]
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
        assert len(by_utterance(batches)) == SPEECH
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
    start_behind(made, 3, 0)
    second = list(made)
    assert [batch.ids for batch in first] == [batch.ids for batch in second]
    assert [name for batch in first for name in batch.ids] == ids(cuts)
    assert same(by_utterance(first), by_utterance(second))


def test_unusable_utterances_are_left_out_and_listed(tmp_path):
    generator = random.Random(0)
    for name, n_samples in {"good": 1600, "long": 4000, "tiny": 399, "nan": 1600, "gone": 1600}.items():
        values = [float("nan") if name == "nan" else generator.gauss(0, 0.1) for _ in range(n_samples)]
        soundfile.write(tmp_path / f"{name}.wav", np.array(values), 16_000, subtype="FLOAT")
    opened = open_cuts(tmp_path)
    (tmp_path / "gone.wav").unlink()
    gaussian = Distorter.from_config(DistortionConfig(additive=("gaussian",)))
    data = dataset(opened, distorter=gaussian, streams=["student"])
    batch = one_batch(data)
    assert batch.ids == ["good", "long"] and batch.lengths.tolist() == [1600, 4000]
    assert [plan.utterance_id for plan in batch.views["student"].plan] == batch.ids
    reasons = dict(batch.skipped)
    assert reasons["tiny"] == "399 samples, a frame needs 400" and reasons["nan"] == "samples are not finite"
    assert reasons["gone"].endswith("gone.wav does not exist")


def test_a_batch_without_usable_utterances_takes_one_from_anywhere(tmp_path):
    """However many files around it are lost: the same one in the same place, others elsewhere."""
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.01), 16_000)
    cut: Any = open_cuts(tmp_path)["a"]
    gone = AudioSource("file", [0], str(tmp_path / "gone.wav"))
    lost = fastcopy(cut, recording=fastcopy(cut.recording, sources=[gone]))
    half_lost = [fastcopy(cut if n >= 500 else lost, id=f"{n:03d}") for n in range(1_000)]
    data = dataset(half_lost, seed=3)
    taken = [data[0, index, [number]] for index, number in enumerate(range(0, 500, 25))]
    assert all(len(batch) == 1 and int(batch.ids[0]) >= 500 for batch in taken)
    assert all(batch.skipped[0][0] == f"{25 * index:03d}" for index, batch in enumerate(taken))
    assert len({batch.ids[0] for batch in taken}) > 15
    assert data[0, 1, [25]].ids == taken[1].ids  # by seed, epoch and place alone
    assert (
        len({dataset(half_lost, seed=seed)[epoch, 1, [25]].ids[0] for seed in (3, 4) for epoch in (0, 1)})
        == 4
    )
    fixed = dataset(half_lost, seed=3, fixed_epoch=True)
    assert fixed[7, 1, [25]].ids == taken[1].ids


def test_a_corpus_without_usable_utterances_gives_an_empty_batch(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(1600, 0.01), 16_000)
    opened = open_cuts(tmp_path)
    (tmp_path / "a.wav").unlink()
    batch = dataset(opened)[2, 5, [0]]
    assert len(batch) == 0 and batch.position == (2, 5)
    assert len(batch.skipped) == 101 and batch.skipped[-1][0] == "a"
    assert batch.skipped[-1][1].endswith("wav does not exist")


@pytest.mark.parametrize(("model", "hop", "frames"), [(HubertConfig(), 320, 9), (SLOW, 640, 4)])
def test_cluster_labels_are_those_of_the_crop(cuts, speech, model, hop, frames):
    labels = {cut.id: np.arange(model.frames(samples_at_16k(cut))).astype(np.int16) for cut in cuts}
    data = dataset(cuts, max_samples=3200, targets=labels, model=model)
    batch = data[0, 0, [0, 1, 2, 3]]
    assert batch.targets is not None and batch.targets.shape == (4, frames)
    for row, name in enumerate(batch.ids):
        whole = torch.from_numpy(soundfile.read(speech / f"{name}.wav", dtype="float32")[0])
        start = int(batch.targets[row, 0]) * hop
        assert torch.equal(batch.waveforms[row], whole[start : start + 3200])
        assert batch.targets[row].tolist() == list(range(start // hop, start // hop + frames))
    first = [cuts["u00"]]
    _, why = dataset(first, targets={}, model=model)[0, 0, [0]].skipped[0]
    assert why == "no cluster labels for it; make the targets again"
    _, why = dataset(first, targets={"u00": labels["u00"][:-3]}, model=model)[0, 0, [0]].skipped[0]
    assert re.fullmatch(r"\d+ labels for \d+ frames; make the targets again", why)


def test_noise_that_cannot_be_read_is_handed_over(cuts, tmp_path):
    """Each read of it, of both views and rooms too; utterances stay without."""
    soundfile.write(tmp_path / "clip.wav", np.full(1600, 0.01), 16_000)
    config = DistortionConfig(additive=("musan",), non_additive=("none",), rir=True)
    distorter = Distorter.from_config(config)
    source = str(tmp_path)
    noises = NoiseReader({"musan": source, "rir": source})
    options = {"distorter": distorter, "noises": noises, "streams": ["student", "teacher"]}
    data = SpeechDataset(ListedCuts(list(cuts)[:3]), **options)
    batch = data[0, 0, [0, 1, 2]]
    assert (batch.noise_reads, batch.noise_lost) == (12, [])
    (tmp_path / "clip.wav").unlink()
    batch = data[0, 0, [0, 1, 2]]
    assert batch.noise_reads == len(batch.noise_lost) == 12 and batch.to("cpu").noise_lost == batch.noise_lost
    assert {name for name, _ in batch.noise_lost} == {"clip"}
    assert data[0, 0, [0]].noise_reads == len(data[0, 0, [0]].noise_lost) == 4  # handed over once
    view = batch.views["student"]
    heard, labels = distorter(batch.waveforms, batch.lengths, view.plan, view.noises, view.rirs)
    assert torch.equal(heard, batch.waveforms) and labels[:, LABELS.index("clean")].all()
    assert distorter.skipped_silent == 6


def test_silent_recordings_are_handed_over_and_pauses_counted(cuts, tmp_path):
    """What is read is what it was; a recording that sounds somewhere is not silent."""
    config = DistortionConfig(additive=("musan",), non_additive=("none",), rir=True)
    noises = NoiseReader({"musan": str(silent_folder(tmp_path / "a")), "rir": str(tmp_path / "a")})
    options = {"distorter": Distorter.from_config(config), "noises": noises, "streams": ["student"]}
    batch = SpeechDataset(ListedCuts(list(cuts)[:3]), **options)[0, 0, [0, 1, 2]]
    assert (batch.noise_reads, batch.noise_lost, batch.noise_pauses) == (6, [], 0)
    assert batch.noise_silent == [("clip", "holds nothing but silence")] * 6
    assert batch.to("cpu").noise_silent == batch.noise_silent and noises.take_silent() == ([], 0)
    noises = NoiseReader({"musan": str(silent_folder(tmp_path / "b", sound_at_s=45))})
    clip = noises.corpora["musan"][0]
    plan = replace(Distorter.from_config(config).plan(["u"])[0], noise_offset=0.25)
    for _ in range(2):
        assert torch.equal(noises.noise(plan, 1600), torch.zeros(1600))
    assert noises.noise_clip(plan, 1600)[1] == (samples_at_16k(clip) - 1600) // 4
    assert noises.take_silent() == ([], 2)
    (tmp_path / "b" / "clip.wav").unlink()
    noises.noise(plan, 1600)
    assert noises.take_silent() == ([], 0) and len(noises.take_lost()) == 1


def silent_folder(folder: Path, *, sound_at_s: int | None = None) -> Path:
    """A folder with a minute of silence, in which there may be a click."""
    folder.mkdir()
    wave = np.zeros(60 * 16_000)
    if sound_at_s is not None:
        wave[sound_at_s * 16_000 :][:1600] = 0.1
    soundfile.write(folder / "clip.wav", wave, 16_000)
    return folder


# -------------------------------------------------------------------------------------------------- sampler


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
    other.start_behind(1, 0)
    assert list(other) == second


@pytest.mark.parametrize("skip", [0, 1, 5, 12, 13])
def test_an_epoch_is_gone_on_with_once(skip):
    sampler = EpochSampler(some(50), batch_size=4, buckets=2)
    whole = [list(sampler) for _ in range(4)]
    sampler.start_behind(2, skip)
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


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_goes_on_where_it_stopped(cuts, noise_folder, workers):
    data = dataset(cuts, noise_folder)
    whole = list(loader(data, epoch=1))
    resumed = loader(data, epoch=1, workers=workers)
    start_behind(resumed, 1, 3)
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
