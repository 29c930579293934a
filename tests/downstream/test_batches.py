"""Which utterances a head hears when."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from distill.data.audio import samples_at_16k
from distill.data_prep.manifests import cut_from_file
from distill.downstream.batches import BalancedSampler, HeadSpeech, class_weights
from distill.downstream.options import EvaluationConfig
from distill.downstream.speech import TaskSpeech
from distill.errors import DataError
from distill.hubert import HubertEncoder


def test_every_class_is_drawn_equally_often():
    targets = {f"u{i}": [0] if i < 900 else [1] if i < 990 else [2] for i in range(1000)}
    weights = class_weights(targets)
    assert sum(weights.values()) == pytest.approx(3)
    sampler = BalancedSampler(list(weights.values()), batch_size=20, seed=1)
    drawn = np.array([targets[f"u{n}"][0] for _ in range(4) for *_, numbers in sampler for n in numbers])
    assert len(drawn) == 4 * 50 * 20
    assert np.bincount(drawn) / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.03)


def test_draws_are_resumed_and_shared_among_processes():
    weights = np.random.default_rng(0).random(100)
    whole = BalancedSampler(weights.tolist(), batch_size=10, seed=2)
    epochs = [list(whole) for _ in range(3)]
    assert epochs[0] != epochs[1]
    assert [position for *position, _ in epochs[1]] == [[1, index] for index in range(10)]
    later = BalancedSampler(weights.tolist(), batch_size=10, seed=2)
    later.start_after(1, 7)
    assert list(later) == epochs[1][7:] and list(later) == epochs[2]
    parts = [BalancedSampler(weights.tolist(), batch_size=10, seed=2, rank=r, world_size=2) for r in (0, 1)]
    for (_, _, numbers), (_, _, even), (_, _, odd) in zip(epochs[0], *parts, strict=True):
        assert numbers[::2] == even and numbers[1::2] == odd


def test_ranks_crop_as_one_process_would(task_data):
    config = EvaluationConfig(task="ks", data=str(task_data))
    train, _ = TaskSpeech(config).training(None)
    number = next(n for n, cut in enumerate(train) if cut.duration > 2)
    make = {"targets": {cut.id: [0] for cut in train}, "crop_samples": 16_000}
    whole = HeadSpeech(train, **make)[(0, 0, [number] * 4)].waveforms
    ranks = [HeadSpeech(train, **make, rank=r, world_size=2)[(0, 0, [number] * 2)].waveforms for r in (0, 1)]
    assert torch.equal(whole[::2], ranks[0]) and torch.equal(whole[1::2], ranks[1])


class OneKept:
    """Stands in for a cache that has one utterance."""

    def __init__(self, name: str, frames: int):
        self.name, self.features = name, torch.ones(frames, 4)

    def __contains__(self, name: str) -> bool:
        return name == self.name

    def read(self, name: str) -> torch.Tensor:
        return self.features


@pytest.mark.parametrize("extra", [(), ((32, 2, 2),)])
def test_frames_are_those_of_the_model(task_data, extra):
    """Cached and yet to be heard in one batch: a pool over too many frames is another score."""
    model = HubertEncoder.from_preset("mini", layers=1).config
    model = replace(model, conv_layers=(*model.conv_layers, *extra))
    cuts = TaskSpeech(EvaluationConfig(task="ks", data=str(task_data)), model).split("test")[:2]
    frames = [model.frames(samples_at_16k(cut)) for cut in cuts]
    speech = HeadSpeech(
        cuts,
        {cut.id: [0] for cut in cuts},
        model=model,
        caches=[OneKept(cuts[0].id, frames[0])],  # pyright: ignore[reportArgumentType]
    )
    batch = speech[(0, 0, [0, 1])]
    assert batch.frames is not None and batch.frames.tolist() == frames
    out = HubertEncoder(model)(batch.waveforms)
    assert batch.features is not None and out.last_hidden_state.shape[1] == batch.features.shape[1]


def test_what_cannot_be_read_is_left_out_and_said(task_data, tmp_path):
    good = TaskSpeech(EvaluationConfig(task="ic", data=str(task_data))).split("test")[0]
    path = tmp_path / "bad.wav"
    soundfile.write(path, np.full(4000, np.nan), 16_000, subtype="FLOAT")
    bad = cut_from_file(path)
    speech = HeadSpeech([good, bad], {good.id: [0], "bad": [1]})
    batch = speech[(0, 0, [0, 1])]
    assert batch.ids == [good.id] and batch.skipped == [("bad", "samples are not finite")]
    with pytest.raises(DataError, match="a batch of 2 utterances has none that can be used: "):
        speech[(0, 0, [1, 1])]
