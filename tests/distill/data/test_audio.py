"""The samples of a cut, of any rate and number of channels, and of stretches of it."""

import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional
from lhotse import MonoCut, Recording

from distill.data.audio import all_finite, mono, read_audio, samples_at_16k
from distill.data.sources import open_cuts
from distill.errors import DataError


@pytest.mark.parametrize("name", ["a", "b", "deep/c", "deep/d"])
def test_audio_is_the_mean_of_the_channels_at_16_khz(noise_folder, name):
    cut = open_cuts(noise_folder)[name]
    file = next(noise_folder.glob(f"{name}.*"))
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    expected = torch.from_numpy(samples.mean(1))
    if rate != 16_000:
        expected = torchaudio.functional.resample(expected, rate, 16_000)
    read = read_audio(cut)
    assert read.dtype == torch.float32
    assert abs(len(read) - samples_at_16k(cut)) <= 1
    torch.testing.assert_close(read, expected)


@pytest.mark.parametrize(
    ("name", "start", "count"), [("a", 320, 1600), ("deep/d", 0, 400), ("a", 11_000, 1000)]
)
def test_a_stretch_of_the_audio(noise_folder, name, start, count):
    cut = open_cuts(noise_folder)[name]
    assert torch.equal(read_audio(cut, start, count), read_audio(cut)[start : start + count])


def test_a_stretch_at_another_rate_has_the_right_place_and_length(noise_folder):
    cut = open_cuts(noise_folder)["deep/c"]
    stretch, whole = read_audio(cut, 3200, 4800), read_audio(cut)[3200:8000]
    assert len(stretch) == 4800
    inner = slice(200, -200)  # the resampling filter sees other neighbours at the ends
    torch.testing.assert_close(stretch[inner], whole[inner], atol=2e-3, rtol=0)


def test_audio_that_cannot_be_used(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(800, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "gone.wav", np.zeros(800), 16_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(16_000), 16_000)
    opened = open_cuts(tmp_path)
    (tmp_path / "gone.wav").unlink()
    soundfile.write(tmp_path / "short.wav", np.zeros(4_000), 16_000)  # the manifest promised a second
    for name, message in {
        "nan": "nan: samples are not finite",
        "gone": "gone: .*gone.wav does not exist",
        "short": r"short: cannot be read \(its file is not as long as its manifest says\)",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            read_audio(opened[name])
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("start", "count"), [(0, None), (1600, 3200)])
@pytest.mark.parametrize("true_rate", [8_000, 22_050, 44_100])
def test_a_file_of_another_rate_than_its_manifest_says(tmp_path, true_rate, start, count):
    soundfile.write(tmp_path / "a.wav", np.full(true_rate, 0.1), true_rate)  # 1 s
    recording = Recording.from_file(tmp_path / "a.wav")
    recording.sampling_rate, recording.num_samples = 16_000, 16_000  # as of a file that was replaced
    cut = recording.to_cut()
    assert isinstance(cut, MonoCut)
    with pytest.raises(DataError, match=rf"a: its file has {true_rate} Hz, its manifest says 16000"):
        read_audio(cut, start, count)


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_one_channel_is_not_averaged_and_several_are(channels):
    audio = np.random.default_rng(0).standard_normal((channels, 1000)).astype(np.float32)
    audio[:, 0] = -0.0
    assert mono(audio).tobytes() == audio.mean(0, dtype=np.float32).tobytes()


def test_other_numbers_are_averaged_as_float32():
    assert mono(np.ones((1, 3))).dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_sample_that_is_not_finite_is_found(bad):
    samples = torch.zeros(100_000)
    assert all_finite(samples)
    samples[77_777] = bad
    assert not all_finite(samples)
    samples[77_778] = -bad
    assert not all_finite(samples)


def test_samples_whose_sum_is_infinite_are_finite():
    assert all_finite(torch.full((1000,), 3e38))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_all_of_a_cut_is_the_cut(tmp_path, rate):
    """With the number of its samples or without; that number is what training asks for."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(rate + 7)
    soundfile.write(tmp_path / "a.wav", samples, rate)
    cut = Recording.from_file(tmp_path / "a.wav").to_cut()
    whole = read_audio(cut)
    count = samples_at_16k(cut)
    again = read_audio(cut, 0, count)
    torch.testing.assert_close(again[: count - 20], whole[: count - 20], atol=2e-3, rtol=0)
    if rate == 16_000:
        assert torch.equal(again, whole) and torch.equal(read_audio(cut, 0, count - 1), whole[:-1])
