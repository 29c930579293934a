"""SPIRAL's features against the reference's, and an utterance alone against the same in a batch."""

import pytest
import torch

from distill.waveforms.logmel import LogMel, constants, mel_frames
from tests.distill.spiral.reference import golden


@pytest.mark.parametrize(("name", "wanted"), [("logmel", "features"), ("logmel_tail", "features_zero_tail")])
def test_equals_the_reference(name, wanted):
    """Its longest row reflects its own end, which no other row does: there `features_zero_tail` is meant."""
    found = golden(name)
    features, frames = LogMel(8)(found["waveforms_int16"] / 32768, found["lengths"])
    assert frames.tolist() == mel_frames(found["lengths"]).tolist()
    for row, n in enumerate(frames.tolist()):
        torch.testing.assert_close(features[row, :n], found[wanted][row, :, :n].T, atol=1e-3, rtol=0)
    assert not features[1, frames[1] :].any()


def test_window_and_filters_are_the_reference_s():
    found = golden("logmel")
    window, filters = constants(torch.device("cpu"), 128)
    torch.testing.assert_close(window, found["window"], atol=1e-6, rtol=0)
    torch.testing.assert_close(filters.T, found["filterbank"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("longest", [24_001, 24_080, 24_159])
def test_alone_equals_in_a_batch(longest):
    torch.manual_seed(0)
    lengths = torch.tensor([longest, 17_000, 161])
    waves = torch.randn(3, longest) * 0.1
    features, frames = LogMel(8)(waves, lengths)
    for row, n in enumerate(lengths.tolist()):
        for given in (None, torch.tensor([n])):
            alone, own = LogMel(8)(waves[row : row + 1, :n], given)
            n_frames = int(frames[row])
            assert own is None or own.tolist() == [n_frames]
            torch.testing.assert_close(alone[0, :n_frames], features[row, :n_frames], atol=2e-5, rtol=0)
    assert features.shape[1] % 8 == 0


def test_what_is_in_the_padding_does_not_matter():
    waves, lengths = torch.randn(2, 8_000), torch.tensor([8_000, 5_000])
    spoilt = waves.clone()
    spoilt[1, 5_000:] = torch.nan
    for ours, theirs in zip(LogMel(8)(waves, lengths), LogMel(8)(spoilt, lengths), strict=True):
        assert torch.equal(ours, theirs)


def test_silence_and_half_precision_are_finite():
    waves = torch.cat([torch.zeros(1, 4_000), torch.randn(1, 4_000)]).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, _ = LogMel(8)(waves, torch.tensor([4_000, 4_000]))
    assert features.isfinite().all() and features.dtype == torch.float32


def test_all_bands_together_keep_the_shape_of_the_spectrum():
    """The same log energies, of which one mean and one deviation of the valid frames are taken."""
    torch.manual_seed(0)
    waves, lengths = torch.randn(2, 8_000), torch.tensor([8_000, 3_200])
    features, frames = LogMel(1, 80, per_band=False)(waves, lengths)
    assert frames is not None
    for row, n in enumerate(frames.tolist()):
        valid = features[row, :n]
        assert valid.mean().abs() < 1e-5 and abs(valid.std().item() - 1) < 1e-4
        assert valid.mean(0).abs().max() > 0.05, "bands keep levels of their own"
        assert not features[row, n:].any()
        each = LogMel(1, 80)(waves[row : row + 1, : lengths[row]])[0][0]
        torch.testing.assert_close((valid - valid.mean(0)) / valid.std(0), each, rtol=1e-3, atol=1e-3)
        alone = LogMel(1, 80, per_band=False)(waves[row : row + 1, : lengths[row]])[0][0]
        torch.testing.assert_close(valid, alone, rtol=1e-5, atol=1e-5)
