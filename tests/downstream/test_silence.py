"""Background noise that was cut into seconds is joined for training."""

import pytest
import torch
from lhotse import MonoCut, Recording
from lhotse.audio import AudioSource

from distill.downstream.batches import HeadSpeech
from distill.downstream.options import EvaluationConfig
from distill.downstream.silence import whole_recordings
from distill.downstream.speech import TaskSpeech


def test_silence_is_a_new_second_of_whole_recordings(task_data):
    config = EvaluationConfig(task="ks", data=str(task_data))
    train, dev = TaskSpeech(config).training(None)
    silence = [cut for cut in train if cut.custom["label"] == "_silence_"]  # pyright: ignore
    recording, _ = silence
    assert recording.duration == pytest.approx(3.7) and len({cut.id for cut in train}) == len(train)
    assert {cut.duration for cut in dev} == {1.0}
    number = train.index(recording)
    speech = HeadSpeech(train, {cut.id: [0] for cut in train}, crop_samples=16_000, seed=5)
    batch = speech[(0, 3, [number, number, 0])]
    assert batch.lengths.tolist() == [16_000] * 3
    assert not torch.equal(batch.waveforms[0], batch.waveforms[1])
    assert torch.equal(speech[(0, 3, [number, number, 0])].waveforms, batch.waveforms)
    assert not torch.equal(speech[(1, 3, [number, number, 0])].waveforms[0], batch.waveforms[0])
    other = HeadSpeech(train, speech.targets, crop_samples=16_000, seed=6)
    assert not torch.equal(other[(0, 3, [number])].waveforms[0], batch.waveforms[0])


def test_whole_recordings_leaves_the_rest_alone(task_data):
    config = EvaluationConfig(task="ks", data=str(task_data))
    cuts = TaskSpeech(config).split("train")
    words = [cut for cut in cuts if cut.custom["label"] != "_silence_"]  # pyright: ignore
    assert [cut.id for cut in whole_recordings(cuts)][: len(words)] == [cut.id for cut in words]
    assert sum(cut.custom["label"] == "_silence_" for cut in cuts) == 6  # pyright: ignore


def seconds_of(name: str, labels: list[str | None]) -> list[MonoCut]:
    """A recording, cut into a second for each label; None: not there."""
    recording = Recording(
        name, [AudioSource("file", [0], f"{name}.wav")], 16_000, 16_000 * len(labels), len(labels)
    )
    return [
        MonoCut(f"{name}-{second}", second, 1.0, 0, recording=recording, custom={"label": label})
        for second, label in enumerate(labels)
        if label is not None
    ]


def test_labelled_seconds_of_a_recording_stay_utterances_of_their_own():
    """Four recordings of four words each are sixteen utterances, whether words are said again or not."""
    for labels in (["yes", "no", "up", "down"], ["yes", "yes", "no", "_silence_"]):
        cuts = [cut for name in "abcd" for cut in seconds_of(name, labels)]
        assert whole_recordings(cuts) == cuts and len(cuts) == 16


def test_silence_is_joined_with_its_own_neighbours_only():
    quiet, word = "_silence_", "yes"
    cuts = seconds_of("a", [quiet, quiet, word, quiet, quiet, None, quiet]) + seconds_of("b", [quiet] * 3)
    found = {cut.id: (cut.start, cut.duration, cut.custom["label"]) for cut in whole_recordings(cuts)}
    assert found == {
        "a-0": (0, 2, quiet),
        "a-2": (2, 1, word),
        "a-3": (3, 2, quiet),
        "a-6": (6, 1, quiet),
        "b": (0, 3, quiet),
    }
