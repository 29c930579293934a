"""Resampling against torchaudio in float64, within memory and time that the ratio does not decide."""

import math
import re
import resource

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from lhotse.augmentation import Resample

from distill.data import resampling
from distill.data.audio import read_audio
from distill.data.resampling import resample, resample_channels
from distill.data.sources import index_cuts
from distill.errors import DataError

COMMON = (8_000, 11_025, 12_000, 22_050, 24_000, 32_000, 37_800, 44_100, 48_000, 88_200, 96_000, 192_000)


def noise(count, channels=None):
    shape = count if channels is None else (channels, count)
    return np.random.default_rng(count).uniform(-1, 1, shape).astype(np.float32)


@pytest.mark.parametrize("rate", COMMON)
def test_common_rates_are_as_they_were(rate):
    samples = noise(rate // 3, channels=2)
    expected = torchaudio.functional.resample(torch.from_numpy(samples[0]), rate, 16_000)
    assert torch.equal(resample(torch.from_numpy(samples[0]), rate, 16_000), expected)
    assert np.array_equal(resample_channels(samples, rate, 16_000), Resample(rate, 16_000)(samples))


@pytest.mark.parametrize(
    "rate, target", [*((rate, 16_000) for rate in COMMON), (16_000, 44_100), (997, 1_009)]
)
def test_odd_rates_are_as_good(rate, target):
    samples = noise(rate // 3)
    expected = torchaudio.functional.resample(torch.from_numpy(samples).double(), rate, target).numpy()
    found = resampling._interpolate(samples, rate, target)
    assert len(found) == len(expected) == math.ceil(len(samples) * target / rate)
    assert np.abs(found - expected).max() < 5e-7


@pytest.mark.parametrize("rate", [1_001, 11_127, 15_999, 44_101, 47_999, 383_999])
def test_a_tone_at_an_odd_rate_stays_that_tone(rate):
    hz = min(rate, 16_000) / 5
    tone = np.sin(2 * np.pi * hz * np.arange(rate) / rate).astype(np.float32)
    found = resample(torch.from_numpy(tone), rate, 16_000).numpy()
    expected = np.sin(2 * np.pi * hz * np.arange(16_000) / 16_000)
    assert np.abs(found - expected)[500:-500].max() < 0.02  # what six zero crossings give


@pytest.mark.parametrize("rate", [11_127, 47_999])
@pytest.mark.parametrize("change", [lambda recording: recording, lambda r: r.resample(16_000)])
def test_a_header_decides_no_memory(tmp_path, rate, change):
    soundfile.write(tmp_path / "a.wav", noise(rate), rate)
    cut = index_cuts(str(tmp_path))[0]
    cut = change(cut.recording).to_cut()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_audio(cut)) == 16_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_speeds_make_odd_ratios_too(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(16_000), 16_000)
    recording = index_cuts(str(tmp_path))[0].recording
    assert len(read_audio(recording.perturb_speed(0.9871).to_cut())) == 16_209
    for factor in (0.001, 1e9):
        with pytest.raises(DataError, match=r"a speed of .* is not read"):
            read_audio(recording.perturb_speed(factor).to_cut())


@pytest.mark.parametrize("rate", [1, 999, 384_001, 2**31 - 1])
def test_rates_of_no_recording_are_refused(tmp_path, rate):
    with pytest.raises(DataError, match=r"a sampling rate of .* Hz is not read, only 1000 to 384000 Hz"):
        resample(torch.zeros(10), rate, 16_000)
    soundfile.write(tmp_path / "a.wav", noise(16_000), rate)
    with pytest.raises(DataError, match=re.escape(f"a sampling rate of {rate:g} Hz is not read")):
        read_audio(index_cuts(str(tmp_path))[0])
