from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import firwin, freqz

from distill.distortions import band_reject

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "sox_effects.npz")
SPEECH = torch.from_numpy(GOLDEN["input"])


@pytest.mark.parametrize("name", [k for k in GOLDEN.files if k.startswith("bandreject_")])
def test_equals_sox(name):
    low, high = (float(v) for v in name.split("_")[1:])
    ours = band_reject.apply(SPEECH[None], None, torch.tensor([low]), torch.tensor([high]))[0].numpy()
    removed = np.sum((GOLDEN["input"] - GOLDEN[name]).astype(float) ** 2)
    error = np.sum((ours - GOLDEN[name]).astype(float) ** 2)
    assert 10 * np.log10(removed / error) > 50


def test_design_equals_scipy():
    kernel = band_reject.design([1000.0], [2500.0])[0]
    beta = 0.1117 * 120 - 1.11
    expected = firwin(len(kernel), [1000, 2500], window=("kaiser", beta), fs=16_000, scale=False)
    np.testing.assert_allclose(kernel, expected, atol=1e-12)
    assert len(kernel) == 317


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
