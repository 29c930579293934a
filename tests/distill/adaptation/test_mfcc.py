"""MFCC against Kaldi's definition, and their labels at the frames of an encoder."""

import numpy as np
import pytest
import torch
from scipy.fftpack import dct

from distill.adaptation.mfcc import align_labels, mfcc_features
from distill.hubert import HubertConfig


def noise(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def kaldi_mfcc(waveform):
    """Kaldi's MFCC written out from its documentation, in float64: the reference for one window at a time."""
    x = waveform.double().numpy()
    frames = np.stack([x[start : start + 400] for start in range(0, len(x) - 399, 160)])
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85  # Povey's
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2

    def mel(hz):
        return 1127.0 * np.log(1.0 + hz / 700.0)

    edges = np.linspace(mel(20.0), mel(8000.0), 25)
    bins = mel(np.arange(256) * 16_000 / 512)[None]
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.maximum(0.0, np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)))
    log_mel = np.log(power[:, :256] @ bank.T)
    cepstrum = dct(log_mel, type=2, norm="ortho", axis=1)[:, :13]
    return cepstrum * (1.0 + 11.0 * np.sin(np.pi * np.arange(13) / 22.0))  # lifter


def test_mfcc_agrees_with_kaldis_definition():
    waveform = noise(4000)
    assert np.abs(mfcc_features(waveform)[:, :13].numpy() - kaldi_mfcc(waveform)).max() < 1e-3


def test_mfcc_differences_are_regressions_over_five_frames():
    features = mfcc_features(noise(16_000)).double().numpy()
    weights = np.array([-2, -1, 0, 1, 2]) / 10
    for source, result in ((features[:, :13], features[:, 13:26]), (features[:, 13:26], features[:, 26:])):
        expected = np.stack([weights @ source[i - 2 : i + 3] for i in range(2, len(source) - 2)])
        assert np.abs(expected - result[2:-2]).max() < 1e-3


@pytest.mark.parametrize("samples", [400, 559, 560, 719, 720, 16_000, 16_319, 32_007])
def test_every_second_mfcc_frame_is_a_hubert_frame(samples):
    features = mfcc_features(noise(samples))
    assert features.shape == ((samples - 400) // 160 + 1, 39)
    assert len(features[::2]) == HubertConfig().frames(samples)
    # frame i depends on samples 320 i .. 320 i + 399 alone, as the encoder's frame i does
    moved = noise(samples)
    moved[: -400 - (samples - 400) % 320] = 0.01
    last = HubertConfig().frames(samples) - 1
    assert torch.equal(mfcc_features(moved)[2 * last, :13], features[2 * last, :13])


def test_mfcc_refuses_what_is_not_a_waveform():
    for wrong in (noise(399), noise(1000)[None]):
        with pytest.raises(ValueError, match="waveform"):
            mfcc_features(wrong)


@pytest.mark.parametrize("strides", [(5, 2, 2, 2, 2, 2, 2, 2), (5, 2, 2, 2, 2, 2), (5, 2, 2, 2, 2, 2, 1)])
def test_mfcc_labels_are_those_at_the_middle_of_each_frame(strides):
    """Of encoders of other frame rates: windows of 400 samples every 160, the nearest to its middle."""
    kernels = (10, 3, 3, 3, 3, 2, 2, 2)
    slow = HubertConfig(conv_layers=tuple((8, k, s) for k, s in zip(kernels, strides, strict=False)))
    middles = torch.arange(100) * 160 + 200
    found = align_labels(middles, 20, slow)
    wanted = torch.arange(20) * slow.hop + slow.receptive_field / 2
    assert (found - wanted).abs().max() <= 80


def test_align_labels():
    labels = torch.arange(10)
    assert align_labels(labels, 5).tolist() == [0, 2, 4, 6, 8]
    assert align_labels(labels, 3).tolist() == [0, 2, 4]
    assert align_labels(labels, 7).tolist() == [0, 2, 4, 6, 8, 9, 9]
    with pytest.raises(ValueError, match="labels_100hz"):
        align_labels(labels[:0], 5)
