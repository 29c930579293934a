"""Waveforms: padding never counts, silence is recognised, what is no waveform is refused."""

import numpy as np
import pytest
import torch

from distill.waveforms import (
    all_full,
    check_samples,
    frame_mask,
    is_silent,
    masked_mean,
    normalize_waveforms,
    pad,
)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


def test_normalisation_runs_over_valid_samples():
    waves, lengths = 0.3 * noise(2, 6000) + 0.1, torch.tensor([6000, 4000])
    normalized = normalize_waveforms(waves, lengths)
    for row, length in enumerate(lengths.tolist()):
        valid = waves[row, :length]
        expected = (valid - valid.mean()) / torch.sqrt(valid.var(correction=0) + 1e-5)
        torch.testing.assert_close(normalized[row, :length], expected, rtol=0, atol=1e-5)
        assert not normalized[row, length:].any()
    torch.testing.assert_close(normalize_waveforms(waves[:1], None), normalized[:1])


def test_masked_mean_runs_over_valid_frames():
    x, lengths = noise(3, 7, 5), [7, 4, 1]
    expected = torch.stack([row[:length].mean(0) for row, length in zip(x, lengths, strict=True)])
    for row, length in enumerate(lengths):
        x[row, length:] = float("nan")
    torch.testing.assert_close(masked_mean(x, torch.tensor(lengths)), expected)


def test_padding():
    waves, lengths = pad([torch.ones(3), torch.ones(5)])
    assert waves.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]] and lengths.tolist() == [3, 5]
    assert torch.equal(frame_mask(lengths, 5), waves.bool())


def test_silence_is_below_minus_100_db():
    assert is_silent(torch.zeros(10)) and is_silent(torch.full((10,), 0.9e-5))
    assert not is_silent(torch.full((10,), 1.1e-5)) and is_silent(torch.full((10,), float("nan")))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(4), "clip must be a torch tensor, not ndarray: torch.from_numpy"),
        (torch.zeros(4, dtype=torch.int16), r"clip must hold floating-point samples within \+-1, not int16"),
    ],
)
def test_what_is_no_waveform_is_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        check_samples("clip", samples)


def test_rows_are_full_if_their_lengths_say_so_on_the_host():
    waves = noise(2, 600)
    assert all_full(waves, None) and all_full(waves, torch.tensor([600, 600]))
    assert not all_full(waves, torch.tensor([600, 599]))
    assert not all_full(waves.to("meta"), torch.empty(2, dtype=torch.int64, device="meta"))
