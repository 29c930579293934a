"""Padded batches: checking them, clearing their padding, convolving them.

Legend: B utterances, T samples, L filter taps.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from distill.waveforms import check_samples


def valid_lengths(waveforms: Tensor, lengths: Tensor | Sequence[int] | None) -> list[int]:
    """Check a padded batch and return its lengths on the host.

    Args:
        waveforms: (B, T) floating point, 16 kHz.
        lengths: (B,) valid samples of each row, between 1 and T; None means full rows.

    Returns:
        The B lengths as Python integers.

    Raises:
        ValueError: if the shapes, the dtype or a length is wrong.
    """
    check_samples("waveforms", waveforms)
    if waveforms.ndim != 2:
        raise ValueError(f"waveforms must be (B, T), got {tuple(waveforms.shape)}")
    n_rows, n_samples = waveforms.shape
    if lengths is None:
        return [n_samples] * n_rows
    counts = [int(n) for n in (lengths.tolist() if isinstance(lengths, Tensor) else lengths)]
    if len(counts) != n_rows:
        raise ValueError(f"lengths must have one entry per waveform, got {len(counts)} for {n_rows}")
    wrong = [n for n in counts if not 1 <= n <= n_samples]
    if wrong:
        raise ValueError(f"lengths must be between 1 and the batch's {n_samples} samples, got {wrong[0]}")
    return counts


PerRow = Tensor | Sequence[float] | float
"""One number per utterance, or one for all."""


def per_row(name: str, values: PerRow, n_rows: int, low: float, high: float) -> list[float]:
    """Check one number per utterance, or one for all, and return one each on the host.

    Raises:
        ValueError: naming the argument if the count is wrong or a value lies outside [low, high].
    """
    given: Any = values.tolist() if hasattr(values, "tolist") else values  # pyright: ignore
    numbers = [float(v) for v in given] if isinstance(given, Iterable) else [float(given)] * n_rows
    if len(numbers) != n_rows:
        raise ValueError(f"{name} must have one value per waveform, got {len(numbers)} for {n_rows}")
    wrong = [v for v in numbers if not low <= v <= high]
    if wrong:
        raise ValueError(f"{name} must be between {low:g} and {high:g}, got {wrong[0]:g}")
    return numbers


def clear_padding_(waveforms: Tensor, lengths: Sequence[int]) -> Tensor:
    """Zero everything after each row's valid samples, in place."""
    for row, n in enumerate(lengths):
        if n < waveforms.shape[1]:
            waveforms[row, n:] = 0
    return waveforms


def float_copy(waveforms: Tensor, lengths: Sequence[int]) -> Tensor:
    """Copy as float32 with zero padding, so that whatever the caller left there cannot leak in."""
    return clear_padding_(waveforms.to(torch.float32, copy=True), lengths)


def convolve(waveforms: Tensor, kernels: Tensor, origin: int = 0) -> Tensor:
    """Convolve each row with its own filter by overlap-save; keep T samples.

    y[t] = sum_k h[k] x[t - k + origin], with x zero outside the row.

    Args:
        waveforms: (B, T) float32.
        kernels: (B, L) float32 on the same device.
        origin: tap that stands at lag zero, 0 <= origin < L; L // 2 makes a symmetric filter zero-phase.

    Returns:
        (B, T) float32.
    """
    n_rows, n_samples = waveforms.shape
    n_taps = kernels.shape[1]
    # Blocks of about eight filter lengths waste little on overlap and stay in cache.
    n_fft = min(_fast_size(n_samples + n_taps - 1), 1 << (8 * n_taps - 1).bit_length())
    hop = n_fft - n_taps + 1
    n_blocks = -(-n_samples // hop)
    x = F.pad(waveforms, (n_taps - 1 - origin, n_blocks * hop - n_samples + origin))
    spectra = torch.fft.rfft(x.unfold(-1, n_fft, hop)) * torch.fft.rfft(kernels, n_fft)[:, None]
    blocks = torch.fft.irfft(spectra, n_fft)[..., n_taps - 1 :]
    return blocks.reshape(n_rows, -1)[:, :n_samples]


def _fast_size(n_least: int) -> int:
    size = next_fast_len(n_least, real=True)
    assert size is not None
    return size
