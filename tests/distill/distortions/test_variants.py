"""Distortions as the paper says and as its authors' released code does them."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import fftconvolve
from scipy.stats import chisquare

from distill.distortions import CONDITIONS, VARIANTS, Distorter, DistortionConfig, additive, reverb

DRAWN = (
    *("additive", "non_additive", "rir", "snr_db", "noise_choice", "noise_offset", "rir_choice"),
    *("gaussian_seed", "room_scale", "cents", "low_hz", "high_hz"),
)
AUTHORS = DistortionConfig(variant="authors")


def digest(config) -> str:
    """Of 10 000 plans, to nine digits."""
    found = hashlib.blake2b(digest_size=16)
    for plan in Distorter.from_config(config).plan([f"utt-{n}" for n in range(10_000)], seed=3, epoch=2):
        values = [getattr(plan, name) for name in DRAWN]
        texts = [f"{value:.9g} " if isinstance(value, float) else f"{value} " for value in values]
        found.update("".join(texts).encode())
    return found.hexdigest()


def test_the_draws_of_the_paper_are_those_of_before_there_were_variants():
    """Digests made by the code before that."""
    assert [digest(name) for name in ("2-dist", "dns")] == [
        "7d003ceed7b45b0ff940a6e6186b7ab5",
        "25765b747d9e1f6597ceed976b234386",
    ]


def test_the_values_of_each_variant():
    paper = DistortionConfig()
    assert (paper.snr_db, paper.pitch_cents, paper.band_scaler) == ((10, 20), 300, 1.0)
    assert (AUTHORS.snr_db, AUTHORS.pitch_cents, AUTHORS.band_scaler) == ((10, 19), 500, 0.5)


def test_what_is_said_explicitly_wins_over_the_variant():
    mixed = DistortionConfig(variant="authors", pitch_cents=0.0, snr_db=(0, 5))
    assert (mixed.pitch_cents, mixed.snr_db, mixed.band_scaler) == (0.0, (0, 5), 0.5)


def test_a_change_of_variant_takes_all_of_its_values():
    assert CONDITIONS["2-dist"].of_variant("authors") == AUTHORS
    assert AUTHORS.of_variant("paper") == DistortionConfig()
    assert replace(CONDITIONS["dns"], rir=True).of_variant("authors").rir


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "s3prl"}, "variant must be paper or authors, got 's3prl'"),
        (
            {"variant": "authors", "snr_db": (10.0, 19.5)},
            "snr_db must hold whole numbers with variant authors",
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(ValueError, match=message):
        DistortionConfig(**options)


@pytest.fixture(scope="module")
def plans():
    return Distorter.from_config(AUTHORS).plan([f"utt-{n}" for n in range(8000)], seed=1)


def test_the_authors_draw_whole_decibels_10_to_19(plans):
    for name in ("snr_db", "rir_db"):
        values = np.array([getattr(plan, name) for plan in plans])
        assert (values == values.astype(int)).all()
        counts = np.bincount(values.astype(int), minlength=20)
        assert counts[:10].sum() == 0 and len(counts) == 20
        assert chisquare(counts[10:]).pvalue > 1e-3
    assert np.corrcoef([p.snr_db for p in plans], [p.rir_db for p in plans])[0, 1] < 0.05


def test_the_authors_shift_further_and_cut_narrower_bands(plans):
    assert 490 < max(abs(plan.cents) for plan in plans) <= 500

    def bins(plan):
        mels = [2595 * np.log10(1 + hz / 700) for hz in (plan.low_hz, plan.high_hz, 8000)]
        return (mels[1] - mels[0]) / mels[2] * 256

    assert 13 < max(map(bins, plans)) <= 13.5 + 1e-6


def test_all_but_the_numbers_is_drawn_as_in_the_paper(plans):
    paper = Distorter.from_config("2-dist").plan([plan.utterance_id for plan in plans], seed=1)
    for name in ("additive", "non_additive", "noise_choice", "noise_offset", "gaussian_seed", "room_scale"):
        assert [getattr(plan, name) for plan in plans] == [getattr(plan, name) for plan in paper]


# ------------------------------------------------------------------------------------------------- effects


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


def test_the_distorter_does_as_its_variant():
    generator = torch.Generator().manual_seed(0)
    waves, noise = 0.1 * torch.randn(1, 4000, generator=generator), torch.randn(900, generator=generator)
    rir = torch.randn(300, generator=generator)
    heard = {}
    for variant in VARIANTS:
        distorter = Distorter.from_config(CONDITIONS["dns"].of_variant(variant))
        plan = distorter.plan(["a"])
        heard[variant], _ = distorter(waves, None, plan, [noise], [rir])
        room = reverb.convolve_rir(waves, None, [rir], None if variant == "paper" else [plan[0].rir_db])
        expected = additive.apply(room, None, [noise], [plan[0].snr_db], stretch=variant == "authors")
        torch.testing.assert_close(heard[variant], expected)
    assert not torch.allclose(heard["paper"], heard["authors"])
