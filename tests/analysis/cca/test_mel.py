"""Mel filter banks: values against other implementations, frames against the model's."""

import numpy as np
import pytest
import scipy.signal
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.analysis.cca.mel import mel_at, mel_view
from distill.analysis.models import OurModel
from distill.hubert import HubertConfig, HubertEncoder


def noise(n_samples: int, seed: int = 0) -> torch.Tensor:
    samples = np.random.default_rng(seed).standard_normal(n_samples) * 0.1
    return torch.from_numpy(scipy.signal.lfilter([1], [1, -0.9], samples)).float()


def slaney_triangles() -> np.ndarray:
    """(80, 1025), by the definition of the Auditory Toolbox: linear to 1 kHz, then 27 steps in log(6.4)."""

    def hertz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    corners = hertz(np.linspace(50 * 3 / 200, 15 + np.log(8) * 27 / np.log(6.4), 82))
    bins = np.linspace(0, 8000, 1025)
    rows = []
    for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
        rise, fall = (bins - low) / (middle - low), (high - bins) / (high - middle)
        rows.append(np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low))
    return np.stack(rows)


def test_values_from_scipy():
    samples = noise(4000).double().numpy()
    emphasised = scipy.signal.lfilter([1, -0.97], [1], samples / np.abs(samples).max() * 0.999)
    window = scipy.signal.get_window("hann", 400)
    starts = range(0, 4000 - 400 + 1, 160)
    spectrum = np.stack(
        [np.abs(np.fft.rfft(emphasised[start : start + 400] * window, 2048)) for start in starts]
    )
    level_db = 20 * np.log10(np.maximum(spectrum @ slaney_triangles().T, 1e-5))
    expected = np.maximum(level_db, level_db.max() - 80) / 80 + 1
    view = mel_view(torch.from_numpy(samples))
    assert view.shape == (12, 80) and view.dtype == torch.float32
    np.testing.assert_allclose(view, expected[::2], atol=2e-5)
    np.testing.assert_allclose(mel_view(torch.from_numpy(samples), every=1), expected, atol=2e-5)


def test_values_from_torchaudio():
    """Its frame t has its middle at sample 160 t: 120 samples of silence make frame j + 2 our frame j."""
    samples = noise(8000, seed=1)
    emphasised = torchaudio.functional.preemphasis(samples / samples.abs().max() * 0.999, 0.97)
    emphasised[0] = samples[0] / samples.abs().max() * 0.999
    transform = torchaudio.transforms.MelSpectrogram(
        n_fft=2048,
        win_length=400,
        hop_length=160,
        f_min=50,
        n_mels=80,
        power=1,
        norm="slaney",
        mel_scale="slaney",
    )
    mel = transform(torch.cat([torch.zeros(120), emphasised]))
    level_db = torchaudio.functional.amplitude_to_DB(mel, 20, 1e-5, 0)
    ours = mel_view(samples, every=1)
    expected = torch.maximum(level_db, level_db.max() - 80).T[2 : 2 + len(ours)] / 80 + 1
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


def test_loudness_does_not_matter_and_silence_is_finite():
    samples = noise(4000)
    torch.testing.assert_close(mel_view(samples), mel_view(1e-3 * samples), atol=1e-4, rtol=0)
    assert torch.isfinite(mel_view(torch.zeros(4000))).all()
    view = mel_view(torch.cat([torch.zeros(2000), samples]))
    assert view.max() - view.min() == pytest.approx(1, abs=1e-6)  # 80 dB


@given(st.integers(400, 3000))
@settings(max_examples=30)
def test_as_many_frames_as_the_model(n_samples):
    assert len(mel_view(noise(n_samples))) == HubertConfig().frames(n_samples)
    assert len(mel_view(noise(n_samples), every=1)) == (n_samples - 400) // 160 + 1


@pytest.fixture(scope="module")
def model() -> OurModel:
    torch.manual_seed(0)
    # with layer norm: group norm spreads over time whatever one frame sees
    return OurModel(HubertEncoder.from_preset("mini", conv_norm="layer"), "mini")


def layer_of(model: OurModel, waveform: torch.Tensor, layer: str) -> torch.Tensor:
    """(F, D)."""
    return model.activations(waveform[None], torch.tensor([len(waveform)]), [layer]).valid(layer)[0]


@pytest.mark.parametrize("onset, frames", [(1700, [5]), (3200, [9, 10]), (4850, [14, 15]), (0, [0])])
def test_a_click_is_in_the_frames_in_which_the_model_sees_it(model, onset, frames):
    silence, click = torch.zeros(8000), torch.zeros(8000)
    click[onset : onset + 20] = 0.5
    changed = (layer_of(model, click, "cnn") - layer_of(model, silence, "cnn")).abs().amax(1) > 1e-6
    view = mel_view(click)
    heard = (view - view.min()).amax(1) > 1e-3
    assert heard.nonzero().flatten().tolist() == changed.nonzero().flatten().tolist() == frames


FIELDS = (10, 20, 40, 80, 160, 240, 400)  # samples that a frame of each convolution sees


@pytest.mark.parametrize("shape", [(399,), (1, 4000)])
def test_waveforms_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="waveform must be"):
        mel_view(torch.zeros(shape))


def test_frames_of_slower_models_are_means():
    wave = noise(16_000)
    rows = mel_view(wave)
    assert torch.equal(mel_at(wave, 320), rows)
    slow = mel_at(wave, 1280)
    assert len(slow) == len(rows) // 4
    torch.testing.assert_close(slow[2], rows[8:12].mean(0))
