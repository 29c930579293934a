"""The synthetic room against sox, recorded rooms against their formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import fftconvolve

from distill.distortions import reverb
from tests.paths import GOLDEN

SOX = np.load(GOLDEN / "sox_effects.npz")
SPEECH = torch.from_numpy(SOX["input"])


def snr_db(reference, output) -> float:
    reference, output = np.asarray(reference, dtype=float), np.asarray(output, dtype=float)
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - output) ** 2)))


@pytest.mark.parametrize("room", [0, 33, 100])
def test_equals_sox(room):
    ours = reverb.apply(SPEECH[None], None, torch.tensor([room]))[0]
    assert snr_db(SOX[f"reverb_room{room}"], ours) > 105


@pytest.mark.parametrize("room", [0, 33])
def test_equals_sox_on_an_impulse(room):
    reference = SOX[f"reverb_impulse_at_100_amp_0.5_room{room}"]
    impulse = torch.zeros(1, len(reference))
    impulse[0, 100] = 0.5
    ours = reverb.apply(impulse, None, [room])[0].numpy()
    assert snr_db(reference, ours) > 100
    # The dry impulse dominates that figure: the reverberation alone, too, must match.
    assert snr_db(reference[101:], ours[101:]) > 85


def test_equals_direct_convolution():
    response = reverb.impulse_response(60).numpy()
    expected = fftconvolve(SPEECH.numpy().astype(float), response.astype(float))[: len(SPEECH)]
    assert snr_db(expected, reverb.apply(SPEECH[None], None, [60])[0]) > 110


@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    rooms=st.lists(st.integers(0, 100), min_size=4, max_size=4),
)
def test_invariants(lengths, rooms):
    x = 0.1 * torch.randn(len(lengths), max(lengths) + 5, generator=torch.Generator().manual_seed(0))
    before, rooms = x.clone(), rooms[: len(lengths)]
    y = reverb.apply(x, torch.tensor(lengths), rooms)
    assert torch.equal(x, before)
    assert y.shape == x.shape and y.dtype == torch.float32 and bool(y.isfinite().all())
    for row, n in enumerate(lengths):
        assert not y[row, n:].any()
        torch.testing.assert_close(
            y[row : row + 1, :n], reverb.apply(x[row : row + 1, :n], None, [rooms[row]])
        )


def test_rir_is_unit_energy_and_aligned_at_its_peak():
    rir = torch.zeros(900)
    rir[40], rir[37], rir[340] = 2.0, 0.4, -1.0
    x = torch.zeros(2, 2000)
    x[:, 500] = 1
    other = torch.tensor([0.0, 5.0])
    y = reverb.convolve_rir(x, [2000, 600], [rir, other])
    scale = float(rir.norm())
    expected = torch.zeros(2, 2000)
    expected[0, [497, 500, 800]] = torch.tensor([0.4, 2.0, -1.0]) / scale
    expected[1, 500] = 1
    torch.testing.assert_close(y, expected, atol=1e-6, rtol=0)


def test_rir_equals_scipy():
    generator = torch.Generator().manual_seed(1)
    rir = torch.randn(4000, generator=generator) * torch.exp(-torch.arange(4000) / 600)
    peak = int(rir.abs().argmax())
    unit = (rir / rir.norm()).numpy().astype(float)
    expected = fftconvolve(SPEECH.numpy().astype(float), unit)[peak : peak + len(SPEECH)]
    assert snr_db(expected, reverb.convolve_rir(SPEECH[None], None, [rir])[0]) > 110


@pytest.mark.parametrize("bad", [torch.zeros(10), torch.tensor([1.0, float("nan")])])
def test_useless_rir_leaves_the_speech(bad):
    assert not reverb.usable_rir(bad)
    torch.testing.assert_close(reverb.convolve_rir(SPEECH[None], None, [bad])[0], SPEECH, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("room", "message"),
    [([101], "between 0 and 100"), ([2.5], "integers"), ([1, 2], "one value per waveform")],
)
def test_wrong_room_scales(room, message):
    with pytest.raises(ValueError, match=f"room_scale.*{message}"):
        reverb.apply(torch.zeros(1, 5), None, room)


def test_wrong_rirs():
    with pytest.raises(ValueError, match="one response per waveform"):
        reverb.convolve_rir(torch.zeros(2, 5), None, [torch.ones(3)])
    with pytest.raises(ValueError, match="1-D"):
        reverb.convolve_rir(torch.zeros(1, 5), None, [torch.ones(1, 3)])


def test_the_authors_rooms_have_the_energy_of_a_noise_at_that_snr():
    """h · sqrt(sum x^2 / sum h^2 · 10^(-dB / 10)), x * h cut to the length of x: not aligned at its peak."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(2, 6000, generator=generator) * 0.05
    rir = torch.randn(900, generator=generator) * torch.exp(-torch.arange(900) / 200)
    found = reverb.convolve_rir(waves, [6000, 4000], [rir, rir], [10.0, 17.0])
    for row, (n_samples, energy_db) in enumerate(((6000, 10.0), (4000, 17.0))):
        x, h = waves[row, :n_samples].double().numpy(), rir.double().numpy()
        scale = np.sqrt((x**2).sum() / (h**2).sum() * 10 ** (-energy_db / 10))
        expected = fftconvolve(x, h * scale)[:n_samples]
        np.testing.assert_allclose(found[row, :n_samples].numpy(), expected, atol=1e-5)
        assert (found[row, n_samples:] == 0).all()


def test_the_level_grows_with_the_square_root_of_the_length():
    generator = torch.Generator().manual_seed(0)
    rir = torch.randn(800, generator=generator) * torch.exp(-torch.arange(800) / 100)
    gains = []
    for seconds in (3, 12):
        wave = 0.03 * torch.randn(1, 16_000 * seconds, generator=generator)
        gains.append(float(reverb.convolve_rir(wave, None, [rir], [14.5]).norm() / wave.norm()))
    assert gains[1] / gains[0] == pytest.approx(2, rel=0.05)


def test_both_kinds_of_rooms_in_one_batch():
    generator = torch.Generator().manual_seed(0)
    waves, rirs = torch.randn(2, 3000, generator=generator), list(torch.randn(2, 500, generator=generator))
    together = reverb.convolve_rir(waves, None, rirs, [None, 12.0])
    torch.testing.assert_close(together[:1], reverb.convolve_rir(waves[:1], None, rirs[:1]))
    torch.testing.assert_close(together[1:], reverb.convolve_rir(waves[1:], None, rirs[1:], [12.0]))
    assert not torch.allclose(together[1:], reverb.convolve_rir(waves[1:], None, rirs[1:]))
    with pytest.raises(ValueError, match="energy_db must have one value per response"):
        reverb.convolve_rir(waves, None, rirs, [1.0])
