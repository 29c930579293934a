from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve, firwin, freqz

from distill.distortions import band_reject
from tests.paths import GOLDEN

SOX = np.load(GOLDEN / "sox_effects.npz")
SPEECH = torch.from_numpy(SOX["input"])


SOX_BANDS = np.load(Path(__file__).with_name("sox_bands.npz"))  # see make_sox_bands.py


def change_over_error_db(ours: np.ndarray, sox: np.ndarray) -> float:
    """10 log10(||input - sox||^2 / ||ours - sox||^2): doing nothing scores 0."""
    removed = np.sum((SOX["input"] - sox).astype(float) ** 2)
    return float(10 * np.log10(removed / np.sum((ours - sox).astype(float) ** 2)))


def rejected(low: float, high: float) -> np.ndarray:
    return band_reject.apply(SPEECH[None], None, torch.tensor([low]), torch.tensor([high]))[0].numpy()


@pytest.mark.parametrize("name", [k for k in SOX.files if k.startswith("bandreject_")])
def test_equals_sox(name):
    low, high = (float(v) for v in name.split("_")[1:])
    assert change_over_error_db(rejected(low, high), SOX[name]) > 85


def test_equals_sox_on_random_bands():
    """The filter is linear: sox's impulse responses tell what it does to any speech."""
    widths = np.diff(SOX_BANDS["edges_hz"])[:, 0]
    assert len(widths) == 60 and widths.min() < 30 and widths.max() > 1400
    for (low, high), response in zip(SOX_BANDS["edges_hz"], SOX_BANDS["responses"], strict=True):
        sox = fftconvolve(SOX["input"].astype(float), response.astype(float), mode="same")
        assert change_over_error_db(rejected(low, high), sox) > 65
        kernel = np.pad(band_reject.design([low], [high])[0], len(response) // 2 - 161)
        np.testing.assert_allclose(kernel, response, atol=3e-7, rtol=0)


@settings(deadline=None, max_examples=50)
@given(low=st.floats(1, 7000), width=st.floats(5, 900))
def test_design_equals_scipy(low, width):
    """Scipy makes the same filter when told the window that sox uses for the upper edge."""
    high = low + width
    log_hz = np.log2([390.625, 781.25, 1562.5, 3125, 6250, 8000])
    beta = np.interp(np.log2(high), log_hz, [12.6229, 12.4177, 12.3677, 12.3350, 12.3129, 12.3112])
    kernel = band_reject.design([low], [high])[0]
    n_taps = len(np.trim_zeros(kernel))
    window = ("kaiser", beta)  # documented, but not in its types
    expected = firwin(n_taps, [low, high], window=window, fs=16_000, scale=False)  # pyright: ignore
    np.testing.assert_allclose(np.trim_zeros(kernel), expected, atol=1e-6)


@pytest.mark.parametrize(("high", "n_taps"), [(300, 323), (500, 321), (700, 319), (2000, 317), (7000, 315)])
def test_the_upper_edge_decides_the_length(high, n_taps):
    assert len(np.trim_zeros(band_reject.design([200.0], [float(high)])[0])) == n_taps


def test_stop_band_is_120_db_down_and_pass_bands_are_flat():
    kernel = band_reject.design([1000.0], [3000.0])[0]
    hz, response = freqz(kernel, worN=8192, fs=16_000)
    db = 20 * np.log10(np.abs(response) + 1e-12)
    assert db[(hz > 1210) & (hz < 2790)].max() < -118
    assert np.abs(db[(hz < 790) | (hz > 3210)]).max() < 0.01


@pytest.mark.parametrize(
    ("edges", "kept", "gone"), [((0.0, 2000.0), 4000, 1000), ((2000.0, 8000.0), 1000, 4000)]
)
def test_edges_of_the_spectrum(edges, kept, gone):
    t = torch.arange(8000, dtype=torch.float64) / 16_000
    for hz, gain in ((kept, 1), (gone, 0)):
        x = torch.sin(2 * torch.pi * hz * t).float()[None]
        y = band_reject.apply(x, None, [edges[0]], [edges[1]])
        torch.testing.assert_close(y[:, 200:-200], gain * x[:, 200:-200], atol=1e-4, rtol=0)


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=4),
    edges=st.lists(st.tuples(st.floats(0, 7900), st.floats(1, 100)), min_size=4, max_size=4),
)
def test_invariants(lengths, edges):
    x = 0.1 * torch.randn(len(lengths), max(lengths) + 5, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    low = [a for a, _ in edges[: len(lengths)]]
    high = [a + w for a, w in edges[: len(lengths)]]
    y = band_reject.apply(x, torch.tensor(lengths), low, high)
    assert torch.equal(x, before)
    assert y.shape == x.shape and y.dtype == torch.float32 and bool(y.isfinite().all())
    for row, n in enumerate(lengths):
        assert not y[row, n:].any()
        alone = band_reject.apply(x[row : row + 1, :n], None, low[row : row + 1], high[row : row + 1])
        torch.testing.assert_close(y[row : row + 1, :n], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ([500.0], [400.0], "below"),
        ([-1.0], [400.0], "low_hz"),
        ([1.0], [8001.0], "high_hz"),
        ([], [1.0], "low_hz"),
    ],
)
def test_wrong_edges(low, high, message):
    with pytest.raises(ValueError, match=message):
        band_reject.apply(torch.zeros(1, 5), None, low, high)
