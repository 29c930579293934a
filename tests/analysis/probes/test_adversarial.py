"""Attacks: worse than white noise of the same energy, exact, and only on the speech itself."""

import pytest
import torch

from distill.analysis.probes.adversarial import Fgsm, Pgd, fgsm, pgd
from distill.analysis.probes.perturbations import generator_for, measured_snr
from distill.errors import UsageError
from tests.analysis.probes.stand_ins import StandIn, cut_of

LENGTHS = torch.tensor([12_000, 8_000])


@pytest.fixture(scope="module")
def recogniser():
    return StandIn()


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Cuts, waveforms (2, T) with something in the padding, noises."""
    folder = tmp_path_factory.mktemp("speech")
    generator = torch.Generator().manual_seed(0)
    waveforms, noises = (torch.randn(2, 12_000, generator=generator) for _ in range(2))
    waveforms = 0.1 * waveforms.cumsum(1) / 10
    cuts = [
        cut_of(name, waveforms[row], text, folder)
        for row, (name, text) in enumerate([("a", "AB CD"), ("b", "GEF")])
    ]
    return cuts, waveforms, noises


def losses(recogniser, cuts, waveforms):
    with torch.no_grad():
        return recogniser.loss(*recogniser.outputs(waveforms, LENGTHS), cuts)


@pytest.mark.parametrize("snr_db", [40.0, 20.0])
@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_the_loss_rises_more_than_by_white_noise_and_the_snr_is_exact(recogniser, batch, attack, snr_db):
    cuts, waveforms, noises = batch
    before = waveforms.clone()
    changed, found = attack(recogniser, cuts, waveforms, LENGTHS, noises, snr_db)
    assert found.all() and torch.equal(waveforms, before)
    noisy = waveforms.clone()
    for row, count in enumerate(LENGTHS.tolist()):
        assert measured_snr(waveforms[row, :count], changed[row, :count]) == pytest.approx(snr_db, abs=0.02)
        assert torch.equal(changed[row, count:], waveforms[row, count:])  # padding
        speech, noise = waveforms[row, :count], noises[row, :count]
        noisy[row, :count] += noise * speech.norm() / noise.norm() * 10 ** (-snr_db / 20)
    clean, random, attacked = (losses(recogniser, cuts, each) for each in (waveforms, noisy, changed))
    assert (attacked > random).all() and (attacked > clean).all()


def test_pgd_finds_more_than_fgsm_and_more_steps_more(recogniser, batch):
    cuts, waveforms, noises = batch
    arguments = (recogniser, cuts, waveforms, LENGTHS, noises, 30.0)
    found = [fgsm(*arguments), pgd(*arguments, steps=3), pgd(*arguments, steps=10)]
    one, few, many = (losses(recogniser, cuts, changed).sum() for changed, _ in found)
    assert one < many and few < many


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_an_utterance_is_attacked_as_if_alone(recogniser, batch, attack):
    cuts, waveforms, noises = batch
    together, _ = attack(recogniser, cuts, waveforms, LENGTHS, noises, 30.0)
    again, _ = attack(recogniser, cuts, waveforms, LENGTHS, noises, 30.0)
    assert torch.equal(together, again)
    alone, _ = attack(recogniser, cuts[1:], waveforms[1:, :8_000], LENGTHS[1:], noises[1:, :8_000], 30.0)
    worse = [
        losses(recogniser, cuts, torch.cat([waveforms[:1], rows]))[1]
        for rows in (together[1:], _padded(alone))
    ]
    assert worse[0] == pytest.approx(float(worse[1]), rel=0.02)


def _padded(rows):
    return torch.nn.functional.pad(rows, (0, 12_000 - rows.shape[1]))


def heard(attack, cut, waveform, recogniser):
    return attack.of(recogniser, cut)(waveform, generator_for(0, cut.id, attack.drawn))


def test_as_perturbations_each_model_hears_its_own_or_all_that_of_one(recogniser, batch):
    cuts, waveforms, _ = batch
    other = StandIn(seed=1, name="other")
    for kind in (Fgsm, Pgd):
        own, transferred = kind(30.0), kind(30.0, made_on=recogniser)
        assert own.per_model and not transferred.per_model
        assert own.what != transferred.what and own.name in ("fgsm", "pgd")
        audio = [heard(own, cuts[0], waveforms[0], each) for each in (recogniser, other)]
        assert not torch.equal(*audio)
        assert torch.equal(heard(transferred, cuts[0], waveforms[0], other), audio[0])
        assert measured_snr(waveforms[0], audio[1]) == pytest.approx(30, abs=0.02)
        assert not own.without_gradient


def test_without_a_gradient_there_is_white_noise_and_it_is_counted(recogniser, batch, tmp_path):
    speech = batch[1][0]
    too_much = cut_of("c", speech, "ABCDEFG" * 20, tmp_path)
    for kind in (Fgsm, Pgd):
        for waveform in (speech, speech[:300]):
            attack = kind(20.0)
            found = heard(attack, too_much, waveform, recogniser)
            assert measured_snr(waveform, found) == pytest.approx(20, abs=0.02)
            assert attack.without_gradient == {"stand-in": 1}


def test_silence_stays_silent(recogniser, batch):
    silence = torch.zeros(8_000)
    for kind in (Fgsm, Pgd):
        attack = kind(20.0)
        assert torch.equal(heard(attack, batch[0][0], silence, recogniser), silence)
        assert not attack.without_gradient


def test_wrong_settings_are_refused(batch):
    with pytest.raises(UsageError, match="pgd needs at least one step, not 0"):
        Pgd(20.0, steps=0)
    with pytest.raises(UsageError, match="fgsm 500: expected -100 to 100 dB SNR"):
        Fgsm(500.0)
    with pytest.raises(TypeError, match="call `of` first"):
        Fgsm(20.0)(batch[1][0], torch.Generator())
