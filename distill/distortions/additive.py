"""Additive noise at an exact signal-to-noise ratio.

Legend: B utterances, T samples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distill.distortions.padded import (
    PerRow,
    clear_padding_,
    float_copy,
    on_cpu,
    per_row,
    send_numbers,
    valid_lengths,
)
from distill.waveforms import SILENT_POWER, to_device


@torch.no_grad()
def apply(
    waveforms: Tensor,
    lengths: Tensor | Sequence[int] | None,
    noises: Sequence[Tensor],
    snr_db: PerRow,
    *,
    stretch: bool | Sequence[bool] = False,
) -> Tensor:
    """Add noise so that the SNR over each utterance's valid samples is exactly `snr_db`.

    Nothing is limited to +-1. Where speech or noise is silent no gain gives the SNR, and the speech is
    returned as it is.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        noises: B clips at 16 kHz, each 1-D. Shorter than the speech: tiled; longer: cropped.
        snr_db: (B,) in dB, or one for all.
        stretch: whether each sample of a shorter clip is repeated, in place of tiling it: (B,), or one for
            all.

    Returns:
        (B, T) float32, padding zero.

    Raises:
        ValueError: if a shape or the number of clips is wrong.
    """
    return mix(waveforms, lengths, noises, snr_db, stretch=stretch)[0]


@torch.no_grad()
def mix(
    waveforms: Tensor,
    lengths: Tensor | Sequence[int] | None,
    noises: Sequence[Tensor],
    snr_db: PerRow,
    *,
    stretch: bool | Sequence[bool] = False,
) -> tuple[Tensor, Tensor]:
    """Do the work of `apply` and also say where noise was added.

    y = x + n · sqrt(P_x / (P_n · 10^(SNR / 10))), with P the mean square over the valid samples.

    Returns:
        (B, T) float32, and (B,) bool on the same device: False where speech or noise was silent or not
        finite.

    Raises:
        ValueError: as `apply`.
    """
    counts = valid_lengths(waveforms, lengths)
    snrs = per_row("snr_db", snr_db, len(counts), -300, 300)
    if len(noises) != len(counts):
        raise ValueError(f"noises must have one clip per waveform, got {len(noises)} for {len(counts)}")
    speech = float_copy(waveforms, counts)
    if not counts:
        return speech, torch.zeros(0, dtype=torch.bool, device=speech.device)
    stretches = [stretch] * len(counts) if isinstance(stretch, bool) else stretch
    _check_clips(noises)
    fit = _fit if on_cpu(speech) else _fit_at_once
    noise = fit(noises, counts, speech, stretches)
    n_valid = send_numbers(counts, speech.device)
    speech_power = torch.linalg.vector_norm(speech, dim=1).square() / n_valid
    noise_power = torch.linalg.vector_norm(noise, dim=1).square() / n_valid
    ratio = send_numbers([10 ** (snr / 10) for snr in snrs], speech.device)
    gain = (speech_power / (noise_power * ratio)).sqrt()
    added = (speech_power > SILENT_POWER) & (noise_power > SILENT_POWER) & noise_power.isfinite()
    # Not only a gain of zero: zero times a clip with infinities would be NaN.
    noise.masked_fill_(~added[:, None], 0)
    return speech.addcmul_(noise, gain.masked_fill_(~added, 0)[:, None]), added


def gaussian(lengths: Tensor | Sequence[int], seeds: Sequence[int]) -> list[Tensor]:
    """White Gaussian noise of unit power for each utterance.

    Drawn on the CPU from one generator per utterance: the same on every device and in every batch.

    Args:
        lengths: (B,) samples wanted.
        seeds: B generator seeds.

    Returns:
        B float32 tensors on the CPU.
    """
    counts = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return [
        torch.randn(int(n), generator=torch.Generator().manual_seed(seed))
        for n, seed in zip(counts, seeds, strict=True)
    ]


def noise_segment(n_noise: int, n_needed: int, offset: float) -> tuple[int, int]:
    """Which part of a noise clip a data worker has to read.

    Args:
        n_noise: samples in the clip.
        n_needed: samples of speech.
        offset: in [0, 1), the plan's draw.

    Returns:
        (first sample, number of samples): a stretch of `n_needed` at the drawn place of a longer clip, or
        all of a shorter one, which `apply` tiles.

    Raises:
        ValueError: if a count is not positive or the offset is outside [0, 1).
    """
    if n_noise < 1 or n_needed < 1 or not 0 <= offset < 1:
        raise ValueError(
            f"noise_segment needs positive counts and 0 <= offset < 1, got {n_noise, n_needed, offset}"
        )
    if n_noise <= n_needed:
        return 0, n_noise
    return int(offset * (n_noise - n_needed + 1)), n_needed


def _check_clips(noises: Sequence[Tensor]) -> None:
    for clip in noises:
        if clip.ndim != 1 or clip.numel() == 0:
            raise ValueError(f"a noise clip must be 1-D and not empty, got {tuple(clip.shape)}")


def _fit(
    noises: Sequence[Tensor], counts: Sequence[int], speech: Tensor, stretches: Sequence[bool]
) -> Tensor:
    """Tile, stretch or crop each clip to its utterance: as `speech` (B, T), with zero padding.

    Stretching repeats each sample n // len(clip) + 1 times, as the authors of the paper do.
    """
    out = torch.zeros_like(speech)
    for row, (clip, n, stretch) in enumerate(zip(noises, counts, stretches, strict=True)):
        if clip.numel() >= n:
            out[row, :n] = clip[:n]
        elif stretch:
            out[row, :n] = clip.repeat_interleave(n // clip.numel() + 1)[:n]
        else:
            out[row, :n] = clip.repeat(-(-n // clip.numel()))[:n]
    return out


def _fit_at_once(
    noises: Sequence[Tensor], counts: Sequence[int], speech: Tensor, stretches: Sequence[bool]
) -> Tensor:
    """The same as `_fit` in few launches: sample t of a row is sample (t // repeats) % size of its clip."""
    device = speech.device
    order = sorted(range(len(noises)), key=lambda row: noises[row].device == device)  # the host's first
    n_host = sum(noises[row].device != device for row in order)
    packed = [noises[row].float() for row in order[n_host:]]
    if n_host:
        packed.insert(0, to_device(torch.cat([noises[row].float().cpu() for row in order[:n_host]]), device))
    sizes = [clip.numel() for clip in noises]
    first, position = [0] * len(noises), 0
    for row in order:
        first[row], position = position, position + sizes[row]
    repeats = [
        n // size + 1 if stretch and size < n else 1
        for size, n, stretch in zip(sizes, counts, stretches, strict=True)
    ]
    facts = to_device(torch.tensor([first, sizes, repeats])[..., None], device)  # 3 of (B, 1)
    samples = torch.arange(speech.shape[1], device=device)
    places = samples.div(facts[2], rounding_mode="floor").remainder_(facts[1]).add_(facts[0])
    return clear_padding_((torch.cat(packed) if len(packed) > 1 else packed[0])[places], counts)
