import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.distortions import pitch
from tests.paths import GOLDEN

SOX = np.load(GOLDEN / "sox_effects.npz")
SPEECH = SOX["input"]
SHIFTS = sorted(float(k.split("_")[1]) for k in SOX.files if k.startswith("pitch_"))


def shift(x: np.ndarray, cents: float) -> np.ndarray:
    return pitch.apply(torch.from_numpy(x)[None], None, torch.tensor([cents]))[0].numpy()


def golden(cents: float) -> np.ndarray:
    return SOX[f"pitch_{cents:g}"]


def mel_spectrum_db(x: np.ndarray) -> np.ndarray:
    """80 mel bands of the mean power spectrum, floored 50 dB below the strongest."""
    frames = torch.stft(
        torch.from_numpy(x), 1024, hop_length=160, window=torch.hann_window(1024), return_complex=True
    )
    power = frames.abs().square().mean(-1).numpy()
    hz = np.linspace(0, 8000, 513)
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 82) / 2595) - 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    mel = np.clip(np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)), 0, None) @ power
    return 10 * np.log10(np.maximum(mel, 1e-5 * mel.max()))


def log_envelope(x: np.ndarray) -> np.ndarray:
    frames = x[: len(x) // 160 * 160].reshape(-1, 160).astype(float)
    return np.log(np.mean(frames**2, axis=1) + 1e-8)


@pytest.mark.parametrize("cents", SHIFTS)
def test_spectrum_rhythm_and_level_are_those_of_sox(cents):
    ours, sox = shift(SPEECH, cents), golden(cents)
    difference = mel_spectrum_db(ours) - mel_spectrum_db(sox)
    assert np.sqrt(np.mean(difference**2)) < 1.0
    assert np.corrcoef(log_envelope(ours), log_envelope(SPEECH))[0, 1] > 0.92
    assert abs(10 * np.log10(np.mean(ours**2) / np.mean(sox**2))) < 0.5
    assert len(ours) == len(sox)


def test_the_spectrum_measure_can_tell_shifts_apart():
    difference = mel_spectrum_db(SPEECH) - mel_spectrum_db(golden(300))
    assert np.sqrt(np.mean(difference**2)) > 2


@pytest.mark.parametrize("cents", [-300.0, -120.0, -10.0, 33.0, 300.0, 700.0])
@pytest.mark.parametrize("f0", [90.0, 220.0])
def test_harmonic_tones_move_by_the_shift(cents, f0):
    t = np.arange(24_000) / 16_000
    x = 0.1 * np.sum([np.sin(2 * np.pi * f0 * h * t) / h for h in range(1, 8)], axis=0).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(shift(x, cents) * np.hanning(len(x)), 1 << 20))
    hz = np.arange(len(spectrum)) * 16_000 / (1 << 20)
    for harmonic in (1, 3):
        target = f0 * harmonic * 2 ** (cents / 1200)
        near = np.flatnonzero(np.abs(hz / target - 1) < 0.04)
        found = hz[near[np.argmax(spectrum[near])]]
        assert abs(1200 * np.log2(found / target)) < 5


@given(st.floats(-1200, 1200))
def test_ratios_are_close_to_the_wanted_ones(cents):
    unit_in, unit_out = pitch._units(cents)
    assert abs(1200 * np.log2(unit_in / unit_out) - cents) < 2.5


@pytest.mark.parametrize("cents", [-300.0, -50.0, 120.0, 300.0])
def test_resampling_is_exact_within_the_band(cents):
    unit_in, unit_out = pitch._units(cents)
    hz, n = 0.85 * 8000 * min(1, unit_out / unit_in), 20_000
    x = np.sin(2 * np.pi * hz / 16_000 * np.arange(int(n * unit_in / unit_out) + 2))
    y = pitch._resample(torch.from_numpy(x).float(), unit_in, unit_out, n).numpy()
    expected = np.sin(2 * np.pi * hz / 16_000 * unit_in / unit_out * np.arange(n))
    assert np.abs(y - expected)[1000:-1000].max() < 1e-4


def test_search_finds_the_place_that_brute_force_finds():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 12_000, generator=generator).cumsum(1) * 0.01
    nominal = pitch._nominal_starts([0.9, 1.15], 9)
    starts = pitch._search(x, nominal)
    for row in range(2):
        at = int(nominal[row, 0])
        for k in range(1, 9):
            template = x[row, at + pitch._ADVANCE :][: pitch._OVERLAP]
            first = int(nominal[row, k])
            errors = [
                float((x[row, first + j :][: pitch._OVERLAP] - template).double().square().sum())
                for j in range(pitch._SEARCH)
            ]
            at = first + int(np.argmin(errors))
            assert starts[row, k] == at


@settings(deadline=None, max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 12_000), min_size=1, max_size=4),
    cents=st.lists(st.floats(-600, 600), min_size=4, max_size=4),
    silent=st.booleans(),
)
def test_invariants(lengths, cents, silent):
    n = max(lengths) + 5
    # A tone has many equally good places for each segment: the batch must not decide between them.
    tone = 0.2 * torch.sin(torch.arange(n) * 2 * torch.pi / 80)
    noise = 0.02 * torch.randn(n, generator=torch.Generator().manual_seed(0))
    x = torch.stack([torch.zeros(n) if silent else tone, tone + noise, noise, tone])[: len(lengths)]
    before, cents = x.clone(), cents[: len(lengths)]
    y = pitch.apply(x, torch.tensor(lengths), cents)
    assert torch.equal(x, before)
    assert y.shape == x.shape and y.dtype == torch.float32 and bool(y.isfinite().all())
    for row, n_valid in enumerate(lengths):
        assert not y[row, n_valid:].any()
        alone = pitch.apply(x[row : row + 1, :n_valid], None, cents[row : row + 1])
        torch.testing.assert_close(y[row : row + 1, :n_valid], alone, atol=1e-5, rtol=0)


def test_the_end_is_not_filled_with_the_input_or_silence():
    noise = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
    for cents in (-300.0, 300.0):
        y = shift(noise, cents)
        assert 0.5 < np.mean(y[-800:] ** 2) / np.mean(y[:-800] ** 2) < 2
        assert abs(np.corrcoef(y[-800:], noise[-800:])[0, 1]) < 0.3


def test_zero_cents_returns_the_input_in_a_copy():
    x = torch.from_numpy(SPEECH)[None]
    y = pitch.apply(x, None, [0.0])
    assert torch.equal(x, y) and y.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("cents", [[1201.0], [float("nan")], [1.0, 2.0]])
def test_wrong_shifts(cents):
    with pytest.raises(ValueError, match="cents"):
        pitch.apply(torch.zeros(1, 5), None, cents)


def test_silence_leaves_no_choice_to_rounding():
    nominal = pitch._nominal_starts([0.9], 9)
    assert torch.equal(pitch._search(torch.zeros(1, 12_000), nominal), nominal)


@pytest.mark.parametrize("tempo", [0.8, 1.25])
def test_segments_join_smoothly(tempo):
    # A 20 Hz tone has no matching place within the search: only the cross-fade hides the joints.
    x = torch.sin(torch.arange(16_000) * 2 * torch.pi * 20 / 16_000)[None]
    y = pitch._stretch(x, [tempo], 10_000)[0]
    assert y[:10_000].diff().abs().max() < 3 * x.diff().abs().max()


@pytest.mark.parametrize("cents", [-1200.0, 1200.0])
def test_the_beginning_is_kept(cents):
    x = np.zeros(8000, dtype=np.float32)
    x[:60] = 0.5
    assert np.abs(shift(x, cents)[:120]).max() > 0.3
