"""What the networks hear, for the loggers."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from distill.distortions import Distorter
from distill.distortions.plan import draw
from distill.options import LoggingConfig
from distill.training.listening import Heard, describe, draw_spectrograms, heard, log_mel
from tests.distill.ddp_worker import NO_NOISE_FILES, make_batches, make_module
from tests.distill.training.logs import train


def test_plans_in_words():
    plan = draw(NO_NOISE_FILES, "a", (0,))
    fields = {**plan.__dict__, "snr_db": 12.34, "room_scale": 40, "cents": -120.4, "low_hz": 500.0}
    fields |= {"high_hz": 612.0, "rir": False}

    def words(**changes) -> str:
        return describe(type(plan)(**{**fields, **changes}))

    assert words(additive="none", non_additive="none") == "clean"
    assert words(additive="wham", non_additive="none") == "wham at 12.3 dB SNR"
    assert words(additive="none", non_additive="pitch") == "pitch -120 cents"
    assert words(additive="none", non_additive="band_reject") == "without 500-612 Hz"
    assert (
        words(additive="none", non_additive="clipping", clip_factor=0.25) == "clipped at 25 % of its extremes"
    )
    assert words(additive="none", non_additive="time_drop", n_dropped=200) == "12.5 ms silenced"
    everything = words(additive="dns", non_additive="reverb", rir=True)
    assert everything == "recorded room, then dns at 12.3 dB SNR, then reverb of a 40 % room"


@pytest.mark.parametrize("distorted", [True, False])
def test_modules_with_one_network_have_one_sound(distorted):
    """Masked prediction: the student's view of the batch, or clean speech."""
    batch = make_batches(1)[0]
    module: Any = SimpleNamespace(distorter=Distorter.from_config(NO_NOISE_FILES))
    expected = make_module(dat=False).distort(batch, "student")[0]
    if not distorted:
        batch.views, expected = {}, batch.waveforms
    sounds = heard(module, batch)
    assert sounds.keys() == {"model"}
    samples = sounds["model"].samples
    torch.testing.assert_close(
        torch.from_numpy(samples), expected[0, : len(samples)].clamp(-1, 1), atol=1e-6, rtol=0
    )


def test_a_tone_is_where_it_should_be_in_the_picture():
    time_s = torch.arange(16_000) / 16_000
    mels = log_mel(torch.sin(2 * torch.pi * 1000.0 * time_s))
    assert mels.shape == (64, 101)
    # 64 triangles evenly over the mel scale up to 8 kHz (2840 mel): 1 kHz is 1000 mel.
    assert abs(int(mels.mean(1).argmax()) - (1000 / 2840 * 65 - 1)) < 1
    picture = draw_spectrograms({"a": Heard(np.zeros(16_000, np.float32), "silence")})
    assert picture.dtype == np.uint8 and picture.shape[2] == 3


def test_sounds_can_be_turned_off(tmp_path, monkeypatch):
    monkeypatch.setattr("distill.training.listening.heard", lambda *_: pytest.fail("asked for"))
    train(tmp_path, "logging.audio_every_n_steps=0", steps=2)
    with pytest.raises(ValueError, match="audio_every_n_steps must be 0"):
        LoggingConfig(audio_every_n_steps=-1)


def test_sounds_that_cannot_be_shown_do_not_stop_training(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ImportError("no fonts")

    monkeypatch.setattr("distill.training.listening.draw_spectrograms", fail)
    assert train(tmp_path, "logging.audio_every_n_steps=1", steps=2).global_step == 2
    assert "TensorBoardLogger failed: ImportError: no fonts" in caplog.text
