"""Padded batches: checking them, clearing their padding, convolving them.

Legend: B utterances, T samples, L filter taps.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.waveforms import check_samples, to_device


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


def on_cpu(x: Tensor) -> bool:
    """Whether one row after another is fastest; elsewhere every launch costs time, so all rows go at once."""
    return x.device.type == "cpu"


def send_numbers(numbers: Sequence[float], device: torch.device) -> Tensor:
    """(B,) numbers of the host as float32, or int64 if they are integers, on `device`; see `to_device`."""
    return to_device(torch.tensor(numbers), device)


def is_padding(waveforms: Tensor, lengths: Sequence[int]) -> Tensor:
    """(B, T) bool, true after each row's valid samples."""
    ends = send_numbers(lengths, waveforms.device)[:, None]
    return torch.arange(waveforms.shape[1], device=waveforms.device) >= ends


def clear_padding_(waveforms: Tensor, lengths: Sequence[int]) -> Tensor:
    """Zero everything after each row's valid samples, in place."""
    if len(lengths) and not on_cpu(waveforms):
        return waveforms.masked_fill_(is_padding(waveforms, lengths), 0)
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
    n_fft = _fft_size(n_taps, n_samples)
    hop = n_fft - n_taps + 1
    n_blocks = -(-n_samples // hop)
    more = 0
    if not on_cpu(waveforms):
        n_blocks, more = _power_of_two(n_blocks), max(_power_of_two(n_rows), _LEAST_ROWS) - n_rows
    x = F.pad(waveforms, (n_taps - 1 - origin, n_blocks * hop - n_samples + origin, 0, more))
    spectra = torch.fft.rfft(x.unfold(-1, n_fft, hop))
    spectra *= torch.fft.rfft(F.pad(kernels, (0, n_fft - n_taps, 0, more)))[:, None]
    blocks = torch.fft.irfft(spectra, n_fft)[..., n_taps - 1 :]
    return blocks.reshape(n_rows + more, -1)[:n_rows, :n_samples]


# Each size of transform, and on a GPU each number of them too, is planned at its first use: there should be
# few, and powers of two are the fastest (others can take five times as long on a CPU). Blocks of four to
# eight filter lengths waste little on overlap; from 131 072 samples on they leave the cache.
_FFT_SIZES = (4096, 131_072)
_LEAST_ROWS = 8


def _fft_size(n_taps: int, n_samples: int) -> int:
    """Samples in a block: a power of two that has room for the filter, no longer than the row needs."""
    smallest, largest = _FFT_SIZES
    wanted = min(max(_power_of_two(4 * n_taps), smallest), max(_power_of_two(2 * n_taps), largest))
    return min(wanted, _power_of_two(n_samples + n_taps - 1))


def _power_of_two(n_least: int) -> int:
    return 1 << (n_least - 1).bit_length()
