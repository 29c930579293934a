"""Noise at an exact signal-to-noise ratio."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.distortions import additive


def speech(n_rows: int, n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_rows, n_samples, generator=torch.Generator().manual_seed(seed))


def snr_db(clean: torch.Tensor, noisy: torch.Tensor) -> float:
    clean, noisy = clean.double(), noisy.double()
    return float(10 * torch.log10(clean.square().sum() / (noisy - clean).square().sum()))


@given(
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=5),
    n_noise=st.integers(1, 6000),
    snr=st.floats(-20, 40),
    level=st.floats(1e-3, 10),
    seed=st.integers(0, 2**31),
)
def test_snr_length_and_padding(lengths, n_noise, snr, level, seed):
    x = speech(len(lengths), max(lengths) + 7, seed)
    before = x.clone()
    clips = [
        level * (0.1 + torch.rand(n_noise, generator=torch.Generator().manual_seed(seed))) for _ in lengths
    ]
    y = additive.apply(x, torch.tensor(lengths), clips, [snr] * len(lengths))
    assert torch.equal(x, before)
    assert y.shape == x.shape and y.dtype == torch.float32 and bool(y.isfinite().all())
    for row, n in enumerate(lengths):
        assert not y[row, n:].any()
        if x[row, :n].square().mean() > additive.SILENT_POWER:
            assert snr_db(x[row, :n], y[row, :n]) == pytest.approx(snr, abs=0.1)


def test_short_noise_is_tiled_and_long_noise_cropped():
    x = speech(2, 10)
    short, long = torch.tensor([1.0, -2.0, 3.0]), torch.arange(1.0, 21.0)
    added = additive.apply(x, None, [short, long], [0.0, 0.0]) - x
    for row, expected in enumerate((short.repeat(4)[:10], long[:10])):
        gain = added[row, 0] / expected[0]
        torch.testing.assert_close(added[row], gain * expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.zeros(50), torch.full((50,), float("nan")), torch.tensor([1e30, 1.0])])
def test_silent_or_broken_noise_leaves_the_speech(bad):
    x = speech(2, 100)
    y, added = additive.mix(x, None, [bad, torch.ones(100)], [10.0, 10.0])
    assert torch.equal(y[0], x[0]) and added.tolist() == [False, True]


def test_silent_speech_stays_silent():
    y, added = additive.mix(torch.zeros(1, 100), None, [torch.ones(100)], [10.0])
    assert not y.any() and not added.any()


def test_nothing_is_clipped():
    y = additive.apply(torch.full((1, 100), 0.9), None, [torch.ones(100)], [0.0])
    assert y.max() == pytest.approx(1.8)


def test_padding_of_the_input_does_not_count():
    x = speech(1, 100)
    dirty = torch.cat([x, torch.full((1, 50), 9.0)], 1)
    y = additive.apply(dirty, [100], [torch.ones(10)], [5.0])
    torch.testing.assert_close(y[:, :100], additive.apply(x, None, [torch.ones(10)], [5.0]))
    assert not y[:, 100:].any()


def test_gaussian_is_seeded_white_and_normal():
    a, b = additive.gaussian([40_000, 40_000], [5, 6])
    assert torch.equal(a, additive.gaussian(torch.tensor([40_000]), [5])[0])
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.03
    assert float(a.square().mean()) == pytest.approx(1, abs=0.05)
    assert float(a.pow(4).mean()) == pytest.approx(3, abs=0.3)
    bands = torch.fft.rfft(a).abs().square()[1:20_001].reshape(4, -1).mean(1) / len(a)
    assert bands.tolist() == pytest.approx([1.0] * 4, abs=0.06)


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_noise_segment_stays_inside_the_clip(n_noise, n_needed, offset):
    start, n = additive.noise_segment(n_noise, n_needed, offset)
    assert n == min(n_noise, n_needed) and 0 <= start <= n_noise - n


def test_noise_segment_reaches_both_ends():
    assert additive.noise_segment(100, 10, 0.0) == (0, 10)
    assert additive.noise_segment(100, 10, 0.9999) == (90, 10)
    with pytest.raises(ValueError, match="offset"):
        additive.noise_segment(100, 10, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(5), None, [], []), r"waveforms must be \(B, T\)"),
        ((torch.zeros(1, 5, dtype=torch.int16), None, [torch.ones(5)], [0.0]), "floating-point"),
        ((torch.zeros(1, 5), [6], [torch.ones(5)], [0.0]), "between 1 and the batch's 5 samples, got 6"),
        ((torch.zeros(1, 5), [5, 5], [torch.ones(5)], [0.0]), "lengths must have one entry"),
        ((torch.zeros(1, 5), None, [], [0.0]), "noises must have one clip"),
        ((torch.zeros(1, 5), None, [torch.ones(5)], []), "snr_db must have one value"),
        ((torch.zeros(1, 5), None, [torch.ones(5)], [float("nan")]), "snr_db"),
        ((torch.zeros(1, 5), None, [torch.ones(1, 5)], [0.0]), "noise clip must be 1-D"),
        ((torch.zeros(1, 5), None, [torch.ones(0)], [0.0]), "not empty"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        additive.apply(*arguments)


@pytest.mark.parametrize(
    ("n_samples", "stretched"),
    [(4, [0, 0, 1, 1]), (5, [0, 0, 1, 1, 2]), (6, [0, 0, 0, 1, 1, 1]), (7, [0, 0, 0, 1, 1, 1, 2])],
)
def test_short_noise_is_stretched(n_samples, stretched):
    """Each sample n // len(noise) + 1 times, as numpy.repeat, and cut to the speech."""
    noise = torch.tensor([0.3, -0.7, 0.5])
    assert stretched == np.repeat([0, 1, 2], n_samples // 3 + 1)[:n_samples].tolist()
    speech = torch.linspace(0.1, 1, n_samples)[None]
    found = additive.apply(speech, None, [noise], [10.0], stretch=True)
    expected = additive.apply(speech, None, [noise[stretched]], [10.0])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, additive.apply(speech, None, [noise], [10.0]))


@pytest.mark.parametrize("n_noise", [8, 12])
def test_noise_that_is_long_enough_is_not_stretched(n_noise):
    speech, noise = torch.linspace(0.1, 1, 8)[None], torch.randn(n_noise)
    found = additive.apply(speech, None, [noise], [10.0], stretch=True)
    assert torch.equal(found, additive.apply(speech, None, [noise], [10.0]))


def test_stretching_is_per_utterance():
    waves, noise = (
        torch.randn(2, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0.3, -0.7, 0.5]),
    )
    found = additive.apply(waves, None, [noise] * 2, 10, stretch=[True, False])
    for row, stretch in enumerate((True, False)):
        expected = additive.apply(waves[row : row + 1], None, [noise], 10, stretch=stretch)
        torch.testing.assert_close(found[row : row + 1], expected)
