"""Perturbations: exact, the same for the same seed, and the identity where nothing is asked for."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.analysis.probes.perturbations import (
    GRIDS,
    Backgrounds,
    ChunkCount,
    ChunkLength,
    Speed,
    WhiteNoise,
    generator_for,
    measured_snr,
)
from distill.errors import DataError, UsageError

RATE = 16_000
SPEECH = 0.1 * torch.randn(3 * RATE, generator=torch.Generator().manual_seed(0))


def heard(perturbation, waveform=SPEECH, *, seed=0, utterance="a"):
    before = waveform.clone()
    found = perturbation(waveform, generator_for(seed, utterance, perturbation.drawn))
    assert torch.equal(waveform, before)  # nothing in place
    return found


@pytest.fixture(scope="module")
def noises(tmp_path_factory):
    root = tmp_path_factory.mktemp("noises")
    generator = np.random.default_rng(0)
    for corpus in ("musan", "wham", "fsd", "dns", "rir"):
        (root / corpus).mkdir()
        for number in range(3):
            samples = 0.1 * generator.standard_normal(RATE * (number + 1))
            samples *= np.exp(-np.arange(len(samples)) / 800) if corpus == "rir" else 1
            soundfile.write(root / corpus / f"{number}.wav", samples, RATE)
    return {path.name: [str(path)] for path in root.iterdir()}


def test_the_grids_are_those_of_the_paper():
    assert GRIDS["white_noise"] == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert GRIDS["speed"] == (50, 75, 100, 125, 150, 175, 200, 225)
    assert GRIDS["chunk_length"] == tuple(range(0, 1001, 100))
    assert GRIDS["chunk_count"] == tuple(range(100, 1001, 100))
    assert GRIDS["background"] == (20, 15, 10, 5, 0, -5)


@pytest.mark.parametrize(
    "nothing", [WhiteNoise(0), Speed(100), ChunkLength(0), ChunkCount(0)], ids=lambda p: p.name
)
def test_the_identity_is_bit_for_bit(nothing):
    assert torch.equal(heard(nothing), SPEECH)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.05, 1), st.floats(0.1, 4))
def test_white_noise_has_the_snr_of_its_formula(rho, level):
    found = measured_snr(SPEECH, heard(WhiteNoise(rho, level=level)))
    assert found == pytest.approx(-10 * np.log10(rho) - 20 * np.log10(level), abs=0.2)


def test_white_noise_of_probability_one_is_that_of_a_normalised_input():
    quiet = heard(
        WhiteNoise(1.0), 0.01 * SPEECH + 0.5
    )  # an offset, which the processor takes away, adds none
    loud = heard(WhiteNoise(1.0))
    normalised = [
        (x - c.mean()) / c.std(correction=0) for x, c in ((quiet, 0.01 * SPEECH + 0.5), (loud, SPEECH))
    ]
    assert torch.allclose(*normalised, atol=1e-3)
    assert float(heard(WhiteNoise(1.0, level=0.5, absolute=True), torch.zeros(RATE)).std()) == pytest.approx(
        0.5, rel=0.02
    )


def test_stronger_perturbations_contain_the_weaker_ones():
    changed = [heard(WhiteNoise(rho)) != SPEECH for rho in (0.2, 0.6)]
    assert (changed[0] <= changed[1]).all() and changed[1].float().mean() == pytest.approx(0.6, abs=0.01)
    noisy = [heard(WhiteNoise(rho))[changed[0]] for rho in (0.2, 0.6)]
    assert torch.equal(*noisy)
    for kind in (ChunkLength, ChunkCount):
        dropped = [heard(kind(value)) == 0 for value in (100, 200, 1000)]
        assert (dropped[0] <= dropped[1]).all() and (dropped[1] <= dropped[2]).all()
    assert torch.equal(heard(ChunkLength(100)), heard(ChunkCount(100)))


def test_chunks_are_where_they_were_drawn_and_nothing_else_changes():
    found = heard(ChunkCount(1, length=1000))
    (where,) = torch.nonzero(found != SPEECH, as_tuple=True)
    assert len(where) == 1000 and where[-1] - where[0] == 999 and (found[where] == 0).all()
    starts = [int((heard(ChunkCount(1), utterance=str(n)) == 0).nonzero()[0]) for n in range(300)]
    assert np.mean(starts) == pytest.approx((len(SPEECH) - 100) / 2, rel=0.1)
    assert min(starts) < 0.05 * len(SPEECH) and max(starts) > 0.95 * (len(SPEECH) - 100)


@pytest.mark.parametrize("n_samples", [1, 99, 100, 101])
def test_utterances_about_as_short_as_a_chunk(n_samples):
    found = heard(ChunkCount(1), SPEECH[:n_samples])
    assert len(found) == n_samples and int((found == 0).sum()) == min(n_samples, 100)


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(GRIDS["speed"]), st.integers(1, 20_000))
def test_speed_changes_the_length(value, n_samples):
    assert len(heard(Speed(value), SPEECH[:n_samples])) == -(-n_samples * 100 // int(value))


def test_speed_moves_frequencies():
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(RATE) / RATE)
    for value in (50, 75, 200):
        found = heard(Speed(value), tone)
        hz = float(torch.fft.rfft(found).abs().argmax()) * RATE / len(found)
        assert hz == pytest.approx(500 * value / 100, abs=2)


@pytest.mark.parametrize("kind", ["2-dist", "musan", "wham", "gaussian", "fsd"])
@pytest.mark.parametrize("snr_db", [20, 2.5, -5])
def test_background_noise_has_exactly_its_snr(noises, kind, snr_db):
    made = Backgrounds(kind, noises)(snr_db)
    assert made.name == f"background_{kind}" and made.keeps_samples
    assert measured_snr(SPEECH, heard(made)) == pytest.approx(snr_db, abs=0.01)


def test_background_noise_is_the_same_at_every_snr(noises):
    kinds = Backgrounds("2-dist", noises)
    changes = [heard(kinds(snr_db)) - SPEECH for snr_db in (20, 0)]
    assert torch.allclose(changes[0] * 10, changes[1], atol=1e-5)


def test_dns_comes_with_its_rooms(noises):
    made = Backgrounds("dns", noises)(100)
    assert not made.keeps_samples and not torch.allclose(heard(made), SPEECH, atol=1e-2)


def test_noise_of_any_source(noises, tmp_path):
    made = Backgrounds(noises["wham"][0] + "?part=0-0.99", {})
    assert made.kind == "wham-part-0-0-99"
    assert measured_snr(SPEECH, heard(made(3))) == pytest.approx(3, abs=0.01)
    assert made.identity == Backgrounds("wham", noises).identity != Backgrounds("fsd", noises).identity


def all_kinds(noises):
    return [WhiteNoise(0.5), ChunkLength(300), ChunkCount(200), Speed(75), Backgrounds("2-dist", noises)(5)]


def test_the_same_seed_gives_the_same_audio_in_any_order(noises):
    kinds = all_kinds(noises)
    first = [heard(kind, utterance=name) for kind in kinds for name in "ab"]
    again = [heard(kind, utterance=name) for kind in reversed(kinds) for name in "ba"]
    assert all(map(torch.equal, first, reversed(again)))
    for kind in kinds:
        if not isinstance(kind, Speed):
            assert not torch.equal(heard(kind), heard(kind, seed=1))
            assert not torch.equal(heard(kind), heard(kind, utterance="b"))


def test_silence_is_no_division_by_zero(noises):
    silence = torch.zeros(RATE)
    for kind in all_kinds(noises):
        found = heard(kind, silence)
        assert torch.isfinite(found).all() and not found.any()
    assert measured_snr(silence, silence) is None and measured_snr(SPEECH, SPEECH) is None


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: WhiteNoise(1.5), "white_noise 1.5: expected 0 to 1 probability"),
        (lambda: WhiteNoise(float("nan")), "white_noise nan: expected"),
        (lambda: WhiteNoise(0.5, level=0), "level of white noise must be positive"),
        (lambda: Speed(0), "speed 0: expected 10 to 1000 %"),
        (lambda: Speed(33.333), "speed 33.333: 160 times it must be whole"),
        (lambda: ChunkLength(1.5), "chunk_length 1.5: expected a whole number"),
        (lambda: ChunkCount(-1), "chunk_count -1: expected 0 to"),
    ],
)
def test_values_out_of_range_are_refused(make, said):
    with pytest.raises(UsageError, match=said):
        make()


def test_missing_noise_is_refused(noises):
    with pytest.raises(DataError, match="background:dns needs recordings of rir: add --noise rir=SOURCE"):
        Backgrounds("dns", {"dns": noises["dns"]})
    with pytest.raises(
        UsageError, match="background:nowhere is neither a kind of noise .*2-dist.* nor a source"
    ):
        Backgrounds("nowhere", noises)
    with pytest.raises(UsageError, match="background_fsd 200: expected -100 to 100 dB SNR"):
        Backgrounds("fsd", noises)(200)
