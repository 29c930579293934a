"""Noises and rooms from formulas: their spectra, levels and decays."""

from itertools import combinations

import numpy as np
import pytest
from scipy.signal import welch

from distill.data_prep.mini_noise import KINDS, coloured, gusts, room_impulse_response
from tests.data_prep.mini_audio import cuts_of, rms_db

GENERATORS = {kind: make for kinds in KINDS.values() for kind, make in kinds.items()}


def test_what_is_kept_for_testing_is_never_heard_in_training():
    training = {**KINDS["musan"], **KINDS["wham"]}
    testing = {**KINDS["fsd"], **KINDS["dns"]}
    assert set(training).isdisjoint(testing)
    assert set(training.values()).isdisjoint(testing.values())


@pytest.mark.parametrize("kind", sorted(GENERATORS))
def test_a_noise_is_as_long_as_asked_alive_and_its_own_every_time(kind):
    make = GENERATORS[kind]
    one, same, other = (make(np.random.default_rng(seed), 24_001) for seed in (0, 0, 1))
    assert one.shape == (24_001,) and np.isfinite(one).all()
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    assert one.std() > 1e-3
    assert all(np.abs(part).max() > 1e-4 * np.abs(one).max() for part in np.array_split(one, 3))


def fingerprint(kind):
    """Spectrum in 20 bands and range of the level of a kind, in dB, averaged over five clips."""
    clips = [GENERATORS[kind](np.random.default_rng(seed), 64_000) for seed in range(5)]
    spectra, contours = [], []
    for clip in clips:
        power = welch(clip, 16_000, nperseg=512)[1][1:]
        bands = [10 * np.log10(part.mean() / power.mean() + 1e-5) for part in np.array_split(power, 20)]
        frames = clip[: len(clip) // 800 * 800].reshape(-1, 800)
        levels = 10 * np.log10(np.mean(frames**2, axis=1) / np.mean(clip**2) + 1e-5)
        spectra.append(bands)
        contours.append(np.ptp(np.percentile(levels, [5, 95])))
    return np.append(np.mean(spectra, axis=0), np.mean(contours))


def test_noise_types_differ_in_spectrum_or_in_time():
    prints = {kind: fingerprint(kind) for kind in GENERATORS}
    distances = {(a, b): np.abs(prints[a] - prints[b]).max() for a, b in combinations(prints, 2)}
    closest = min(distances, key=lambda pair: distances[pair])
    assert distances[closest] > 5, (closest, distances[closest])  # dB


def test_coloured_noise_has_a_straight_slope_and_wind_is_brown():
    def slope_db_per_octave(samples):
        frequencies, power = welch(samples, 16_000, nperseg=1024)
        inside = (frequencies > 200) & (frequencies < 7000)
        return np.polyfit(np.log2(frequencies[inside]), 10 * np.log10(power[inside]), 1)[0]

    slopes = [slope_db_per_octave(coloured(np.random.default_rng(seed), 160_000)) for seed in range(20)]
    assert -4.9 < min(slopes) < -3 and -1.5 < max(slopes) < 0.3  # 1/f^exponent falls by 3.01 dB x exponent
    assert slope_db_per_octave(gusts(np.random.default_rng(0), 160_000)) == pytest.approx(-6.02, abs=0.7)


def schroeder_rt60_s(response):
    """RT60 from the backward-integrated energy between -5 and -25 dB (Schroeder 1965, ISO 3382 T20)."""
    energy = np.cumsum(np.square(response[::-1]))[::-1]
    late = energy[200:]  # past the direct path
    level_db = 10 * np.log10(late / late[0] + 1e-12)
    start, end = np.argmax(level_db < -5), np.argmax(level_db < -25)
    return -60 / np.polyfit(np.arange(start, end) / 16_000, level_db[start:end], 1)[0]


@pytest.mark.parametrize("rt60_s", [0.2, 0.4, 0.8])
def test_a_room_decays_as_asked_behind_its_direct_path(rt60_s):
    for seed in range(5):
        response = room_impulse_response(np.random.default_rng(seed), rt60_s)
        assert np.flatnonzero(response)[0] == np.argmax(np.abs(response)) == 40  # 2.5 ms
        assert schroeder_rt60_s(response) == pytest.approx(rt60_s, rel=0.15)


def test_written_rooms_keep_their_decay(mini_data):
    for cut in cuts_of(mini_data, "rir_test"):
        assert 0.2 <= cut.custom["rt60_s"] <= 0.8
        assert schroeder_rt60_s(cut.load_audio()[0]) == pytest.approx(cut.custom["rt60_s"], rel=0.15)


def test_noise_clips_name_their_kind_and_cover_all(mini_data):
    assert {cut.custom["kind"] for cut in cuts_of(mini_data, "musan_train")} == {"music", "noise", "babble"}
    for corpus in ("wham", "fsd", "dns"):
        cuts = cuts_of(mini_data, f"{corpus}_test")
        assert {cut.custom["kind"] for cut in cuts} == set(KINDS[corpus])
        assert all(-40 < rms_db(cut.load_audio()) < -20 for cut in cuts)
