"""Batches by name."""

import pytest

from bench.batches import LONGEST, batch_of, librispeech


def test_full_and_padded_rows():
    full = batch_of("4x5")
    assert full.full and full.waveforms.shape == (4, 80_000) and full.audio_s == 20.0
    padded = batch_of("4x5padded")
    assert not padded.full
    assert [round(n / 16_000, 1) for n in padded.lengths.tolist()] == [5.0, 4.1, 3.3, 2.6]
    assert batch_of("2x15padded").lengths.tolist() == [240_000, 156_000]
    for row, length in enumerate(padded.lengths.tolist()):
        assert padded.waveforms[row, :length].all() and not padded.waveforms[row, length:].any()


def test_lengths_are_spread_as_in_librispeech():
    seconds = [n / 16_000 for n in librispeech(10_000)]
    assert sum(seconds) / len(seconds) == pytest.approx(12.0, abs=0.4)
    assert 1.2 < min(seconds) < 2.5 and max(seconds) == LONGEST / 16_000
    assert librispeech(24) == librispeech(24)


@pytest.mark.parametrize("name", ["", "4", "x5", "0x5", "4xfive", "4x5paded", "4x0"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="name it like 4x5, 4x5padded or 24xlibrispeech"):
        batch_of(name)
