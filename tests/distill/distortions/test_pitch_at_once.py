"""The way of a GPU against that of a CPU, and against the closed form."""

import numpy as np
import pytest
import torch

from distill.distortions import pitch, pitch_at_once
from tests.paths import GOLDEN

SPEECH = torch.from_numpy(np.load(GOLDEN / "sox_effects.npz")["input"])


def sounds(n_samples: int) -> torch.Tensor:
    """Speech, a tone with many equally good places, noise, silence."""
    t = torch.arange(n_samples)
    noise = 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(0))
    speech = SPEECH.repeat(-(-n_samples // len(SPEECH)))[:n_samples]
    return torch.stack([speech, 0.2 * torch.sin(t * 2 * torch.pi / 80), noise, 0 * noise])


@pytest.mark.parametrize("tempos", [[0.84, 1.15, 0.97, 1.19], [0.5, 2.0, 1.05, 0.9]])
@pytest.mark.parametrize("n_segments", [1, 2, 3, 24])
@pytest.mark.parametrize("at_once", [7, 512])
def test_the_choices_are_those_of_the_search_segment_by_segment(monkeypatch, tempos, n_segments, at_once):
    monkeypatch.setattr(pitch_at_once, "_SEGMENTS_AT_ONCE", at_once)
    nominal = pitch._nominal_starts(tempos, n_segments)
    x = sounds(int(nominal.max()) + pitch._SEARCH + pitch._SEGMENT)
    assert torch.equal(pitch._search_at_once(x, nominal), pitch._search(x, nominal))


def test_rows_are_resampled_as_block_by_block():
    units = [pitch._units(cents) for cents in (-300.0, 33.0, 287.0, 1200.0)]
    x, counts = sounds(9000), [7000, 5000, 4000, 3999]
    n_valid = [min(9000, n * i // o + 1) for n, (i, o) in zip(counts, units, strict=True)]
    for row, n in enumerate(n_valid):
        x[row, n:] = 0
    made = pitch_at_once.resample(x, units, counts, [pitch._passband(*unit) for unit in units])
    assert made.shape == (4, 7000)
    for row, n in enumerate(counts):
        expected = pitch._resample(x[row, : n_valid[row]], *units[row], n)
        assert float((made[row, :n] - expected).abs().max()) <= 2e-5 * float(x[row].abs().max())


@pytest.mark.parametrize("cents", [-300.0, -50.0, 120.0, 300.0])
def test_tones_within_the_band_come_out_exactly(cents):
    unit = unit_in, unit_out = pitch._units(cents)
    hz, n = 0.85 * 8000 * min(1, unit_out / unit_in), 20_000
    x = np.sin(2 * np.pi * hz / 16_000 * np.arange(int(n * unit_in / unit_out) + 2))
    y = pitch_at_once.resample(torch.from_numpy(x).float()[None], [unit], [n], [pitch._passband(*unit)])
    expected = np.sin(2 * np.pi * hz / 16_000 * unit_in / unit_out * np.arange(n))
    assert np.abs(y[0].numpy() - expected)[1000:-1000].max() < 1e-4


def test_the_response_has_no_hole_where_its_last_factor_is_zero_by_zero():
    lag, ones = torch.tensor([[[10.0 - 1e-7, 10.0, 10.0 + 1e-7]]], dtype=torch.float64), torch.ones(1, 1, 1)
    near, at, after = pitch_at_once._response(lag, ones.double(), 0.9 * ones.double())[0, 0].tolist()
    assert near == pytest.approx(at, abs=1e-7) and after == pytest.approx(at, abs=1e-7)
