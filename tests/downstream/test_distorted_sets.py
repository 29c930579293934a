"""Distorted test sets: the same audio for everybody, of the right noise, at the level that is listed."""

import numpy as np
import pytest
from lhotse import CutSet

from distill.data.noise import NoiseReader
from distill.distortions import CONDITIONS, LABELS, Distorter, DistortionConfig
from distill.downstream.distorted_sets import DistortedSet, find_condition
from distill.errors import DataError, UsageError
from tests.downstream.tone_sets import NOISE_HZ, audio, clean, dry, snr_db, strongest_hz


@pytest.mark.parametrize("condition", ["clean", "2-dist", "fsd", "dns", "ns", "reverb", "pitch"])
def test_the_audio_does_not_depend_on_the_batch_size(low_cuts, reader, condition):
    alone = audio(DistortedSet(low_cuts, condition, reader), 1)
    for size in (4, 64):
        together = audio(DistortedSet(low_cuts, condition, reader), size)
        assert together.keys() == alone.keys() == {cut.id for cut in low_cuts}
        for name, samples in together.items():
            np.testing.assert_allclose(samples, alone[name], atol=2e-6)


def test_nor_on_the_other_utterances_of_the_set(low_cuts, reader):
    few = CutSet.from_cuts(list(low_cuts)[3:6])
    whole = audio(DistortedSet(low_cuts, "2-dist", reader), 16)
    for name, samples in audio(DistortedSet(few, "2-dist", reader), 16).items():
        np.testing.assert_allclose(samples, whole[name], atol=2e-6)


def test_another_seed_is_another_set(low_cuts, reader):
    first, second = (audio(DistortedSet(low_cuts, "fsd", reader, seed=seed), 16) for seed in (0, 1))
    assert all(not np.array_equal(first[name], second[name]) for name in first)


def test_clean_is_clean(low_cuts, low_speech):
    for name, samples in audio(DistortedSet(low_cuts, "clean"), 4).items():
        np.testing.assert_array_equal(samples, clean(low_speech, name))


def test_fsd_adds_fsd_noise_and_nothing_else(low_cuts, reader, low_speech):
    for name, samples in audio(DistortedSet(low_cuts, "fsd", reader), 4).items():
        noise = samples - clean(low_speech, name)
        assert strongest_hz(noise) == pytest.approx(NOISE_HZ["fsd"], abs=5)
        assert 10 <= snr_db(clean(low_speech, name), noise) <= 20


def test_dns_is_a_room_and_then_dns_noise(low_cuts, reader, corpora, low_speech):
    for batch, waveforms, lengths, plan in DistortedSet(low_cuts, "dns", reader).batches(4):
        for cut, wave, length, done in zip(batch, waveforms, lengths.tolist(), plan, strict=True):
            room = dry(clean(low_speech, cut.id), corpora, int(done.rir_choice * 2))
            noise = wave[:length].numpy() - room
            assert strongest_hz(noise) == pytest.approx(NOISE_HZ["dns"], abs=5)
            assert snr_db(room, noise) == pytest.approx(done.snr_db, abs=0.1)
            assert 10 <= done.snr_db <= 20


def test_the_conditions_of_training_and_testing_share_no_noise():
    names = [f"utterance{index}" for index in range(400)]
    heard = {}
    for condition in CONDITIONS:
        plan = Distorter.from_config(condition, split="test").plan(names, stream="test")
        heard[condition] = {p.additive for p in plan} | {p.non_additive for p in plan}
        assert {p.rir for p in plan} == {condition == "dns"}
    assert heard == {
        "clean": {"none"},
        "2-dist": {"musan", "wham", "gaussian", "none", "reverb", "pitch", "band_reject"},
        "fsd": {"fsd", "none"},
        "dns": {"dns", "none"},
        "ns": {"dns", "none"},
    }


def test_a_condition_at_one_snr():
    assert find_condition("fsd@0").snr_db == (0, 0) and find_condition("dns@-2.5").rir
    assert find_condition("ns@10").strung and find_condition("2-dist@5", "authors").variant == "authors"
    for name, message in [
        ("clean@5", "clean has no noise"),
        ("pitch@5", "pitch has no noise"),
        ("fsd@loud", "after @ comes an SNR in dB"),
        ("fsd@", "after @ comes an SNR in dB"),
        ("fsd@nan", "after @ comes an SNR in dB"),
        ("fsd@200", "after @ comes an SNR in dB"),
        ("rain@5", "unknown condition 'rain'"),
    ]:
        with pytest.raises(UsageError, match=message):
            find_condition(name)


def test_noisy_librispeech_has_no_variants():
    assert find_condition("ns", "authors") == CONDITIONS["ns"]


def test_only_the_noise_of_the_condition_is_needed(low_cuts, corpora):
    only = NoiseReader({"fsd": corpora["fsd"]})
    assert len(audio(DistortedSet(low_cuts, "fsd", only), 4)) == 11
    with pytest.raises(DataError, match="dns|rir"):
        audio(DistortedSet(low_cuts, "dns", only), 4)


def test_finding_conditions():
    assert find_condition("2-dist") == DistortionConfig()
    own = DistortionConfig(additive=("none",))
    assert find_condition(own) is own
    for name in (*LABELS[:-1], "speech", "clipping", "time_drop"):
        config = find_condition(name)
        applied = {*config.additive, *config.non_additive} - {"none"}
        assert applied == {name} and not config.rir
    with pytest.raises(
        UsageError, match="unknown condition 'rain'; there are clean, 2-dist, fsd, dns, ns, musan, "
    ):
        find_condition("rain")
    assert find_condition("dns", "authors").variant == "authors" and find_condition("dns", "authors").rir
    assert find_condition("pitch", "authors").pitch_cents == 500
    with pytest.raises(UsageError, match="variant must be paper or authors, not 'theirs'"):
        find_condition("2-dist", "theirs")
