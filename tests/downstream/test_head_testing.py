"""The audio of a test, and how silence and missing noise are treated."""

import torch

from distill.data.noise import NoiseReader
from distill.distortions import Distorter
from distill.downstream.head_testing import measure
from distill.downstream.labels import Outcome
from distill.downstream.speech import TaskSpeech
from distill.downstream.task_sources import noise_sources
from tests.downstream.stand_ins import Ear


def test_the_audio_depends_on_seed_and_utterance_only(quick, task_data):
    config = quick("ic", conditions=["2-dist"])
    cuts = TaskSpeech(config).test("2-dist", None)
    noises = NoiseReader(noise_sources(config))
    distorter = Distorter.from_config("2-dist", split="test")
    heard = {}
    for size, workers, seed in ((1, 0, 0), (4, 1, 0), (4, 0, 1)):
        ear = Ear()
        measured = measure(
            ear,  # pyright: ignore
            cuts,
            {cut.id: [cut.id] for cut in cuts},  # pyright: ignore
            distorter,
            noises,
            seed=seed,
            batch_size=size,
            workers=workers,
            name="test",
            decoders=(None, None),
        )
        assert measured.outcomes == [dict.fromkeys(ear.heard, Outcome(1.0, 2.0, "truth", "said"))] * 2
        assert len(ear.heard) == 6 and not measured.silent
        heard[size, workers, seed] = ear.heard
    for name, wave in heard[1, 0, 0].items():
        torch.testing.assert_close(wave, heard[4, 1, 0][name], atol=2e-6, rtol=0)
    assert any(not torch.equal(wave, heard[4, 0, 1][name]) for name, wave in heard[1, 0, 0].items())
