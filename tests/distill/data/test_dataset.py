"""Batches: crops, plans, labels, and what cannot be used."""

import random
import re
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import AudioSource
from lhotse.utils import fastcopy

from distill.data.audio import samples_at_16k
from distill.data.dataset import SpeechDataset
from distill.data.manifest import ListedCuts
from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.distortions import Distorter, DistortionConfig
from distill.distortions.plan import LABELS
from distill.hubert import HubertConfig
from tests.distill.data.batches import dataset, ids

SLOW = HubertConfig(conv_layers=(*HubertConfig().conv_layers, (512, 2, 2)))  # 25 frames a second


def one_batch(data: SpeechDataset, epoch: int = 0, *names: str):
    """A batch of the named utterances, or of all."""
    numbers = [i for i in range(len(data.cuts)) if not names or data.cuts[i].id in names]
    return data[epoch, 0, numbers]


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
    assert sum(starts[name, 0] != starts[name, 1] for name in ids(cuts)) > len(cuts) / 2
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
    assert [(view.reads, len(view.lost)) for view in batch.views.values()] == [(6, 6), (6, 6)]
    assert data[0, 0, [0]].noise_reads == len(data[0, 0, [0]].noise_lost) == 4  # handed over once
    view = batch.views["student"]
    heard, labels = distorter(batch.waveforms, batch.lengths, view.plan, view.noises, view.rirs)
    assert torch.equal(heard, batch.waveforms) and labels[:, LABELS.index("clean")].all()
    assert distorter.skipped_silent == 6


def test_white_noise_is_drawn_by_the_workers_and_what_they_distort_is_the_same(cuts, noise_folder):
    """Where the workers distort, what is heard is bit for bit what the device would have made."""
    views = {}
    for where in ("device", "workers"):
        distorter = Distorter.from_config(DistortionConfig(where=where))
        batch = dataset(cuts, noise_folder, seed=3)
        batch.distorter = distorter
        made = batch[2, 0, range(6)]
        view = made.views["student"]
        white = [p.additive == "gaussian" for p in view.plan]
        if where == "device":
            assert view.white is not None and [clip is not None for clip in view.white] == white
        views[where] = view.distort(distorter, made.waveforms, made.lengths)
    assert all(torch.equal(a, b) for a, b in zip(views["device"], views["workers"], strict=True))
