"""Band rejection: sox `sinc -a 120 HIGH-LOW`.

A Kaiser-windowed low-pass at LOW plus a high-pass at HIGH, 317 symmetric taps, delay compensated. As in sox
the transition bands are 5 % of the Nyquist frequency (400 Hz), so a narrow band is attenuated rather than
removed.

Legend: B utterances, T samples, L taps.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from distill.distortions.padded import (
    SAMPLE_RATE,
    clear_padding_,
    convolve,
    float_copy,
    per_row,
    valid_lengths,
)

_NYQUIST_HZ = SAMPLE_RATE / 2
_ATTENUATION_DB = 120.0
_TRANSITION = 0.05  # of the Nyquist frequency: sox's default
# sox's fit of Kaiser's formulas above 100 dB: window shape and half order for a transition band.
_KAISER_BETA = 0.1117 * _ATTENUATION_DB - 1.11
_HALF_ORDER = int(
    (0.0425 * _ATTENUATION_DB - 1.4) / (_TRANSITION / 2) * (16.556 / (_ATTENUATION_DB - 39.6) + 0.8625) + 0.5
)
_CENTRE = _HALF_ORDER + _HALF_ORDER % 2  # even, so that the length is 1 modulo 4: 2 · 158 + 1 = 317 taps


@torch.no_grad()
def apply(
    waveforms: Tensor,
    lengths: Tensor | Sequence[int] | None,
    low_hz: Tensor | Sequence[float],
    high_hz: Tensor | Sequence[float],
) -> Tensor:
    """Remove a frequency band from each utterance.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        low_hz: (B,) lower edges in Hz, from 0.
        high_hz: (B,) upper edges in Hz, above `low_hz`, up to 8000.

    Returns:
        (B, T) float32, not delayed, padding zero.

    Raises:
        ValueError: if a shape is wrong, an edge is outside 0-8000 Hz or a band is empty.
    """
    counts = valid_lengths(waveforms, lengths)
    low = per_row("low_hz", low_hz, len(counts), 0, _NYQUIST_HZ)
    high = per_row("high_hz", high_hz, len(counts), 0, _NYQUIST_HZ)
    empty = [(a, b) for a, b in zip(low, high, strict=True) if a >= b]
    if empty:
        raise ValueError(f"low_hz must be below high_hz, got {empty[0][0]:g} and {empty[0][1]:g}")
    kernels = torch.from_numpy(design(low, high).astype(np.float32)).to(waveforms.device)
    return clear_padding_(convolve(float_copy(waveforms, counts), kernels, origin=_CENTRE), counts)


def design(low_hz: Sequence[float], high_hz: Sequence[float]) -> np.ndarray:
    """Band-reject filters: h = lowpass(low) + (delta - lowpass(high)).

    lowpass(f)[n] = sin(pi F n) / (pi n) · kaiser[n], F = f / 8000 Hz. An edge at 0 or 8000 Hz leaves a pure
    high-pass or low-pass.

    Args:
        low_hz: B lower edges.
        high_hz: B upper edges.

    Returns:
        (B, L) float64, symmetric about tap L // 2.
    """
    edges = np.asarray([low_hz, high_hz], dtype=np.float64)[..., None] / _NYQUIST_HZ  # (2, B, 1)
    n = np.arange(-_CENTRE, _CENTRE + 1)
    low, high = edges * np.sinc(edges * n) * _window()
    return low - high + (n == 0)


@lru_cache(maxsize=1)
def _window() -> np.ndarray:
    return np.kaiser(2 * _CENTRE + 1, _KAISER_BETA)
