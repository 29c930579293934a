"""Band rejection: sox `sinc -a 120 HIGH-LOW`.

A Kaiser-windowed low-pass at LOW plus a high-pass at HIGH, 315 to 323 symmetric taps, delay compensated. As
in sox the transition bands are 5 % of the Nyquist frequency (400 Hz), so a narrow band is attenuated rather
than removed.

Legend: B utterances, T samples, L taps.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distill.distortions.padded import (
    PerRow,
    clear_padding_,
    convolve,
    float_copy,
    per_row,
    valid_lengths,
)
from distill.waveforms import SAMPLE_RATE, to_device

_NYQUIST_HZ = SAMPLE_RATE / 2
# sox takes one window for both edges; the upper one decides (in a pure low-pass, the lower one). These are
# fitted to its impulse responses, which they reproduce to 125 dB: the shape is piecewise linear in the
# logarithm of the edge, and constant below the first; the half length grows by a tap with every step of it.
_EDGES_HZ = (390.625, 781.25, 1562.5, 3125.0, 6250.0, 8000.0)
_KAISER_BETAS = (12.62286, 12.41771, 12.36771, 12.33500, 12.31292, 12.31123)
_SHAPE_OF_158, _SHAPE_STEP = 12.32913, 0.07861
_CENTRE = 161  # the longest half length

# WavAugment's band rejection (Kharitonov et al., 2021): up to F = 27 of 256 mel bins.
MEL_BINS = 256
MAX_BAND_BINS = 27.0
MIN_BAND_BINS = 1.0  # a narrower band would change nothing that can be heard, yet be labelled
_TOP_MEL = 2595 * np.log10(1 + 8000 / 700)  # 8 kHz on the HTK mel scale


@torch.no_grad()
def apply(
    waveforms: Tensor,
    lengths: Tensor | Sequence[int] | None,
    low_hz: PerRow,
    high_hz: PerRow,
) -> Tensor:
    """Remove a frequency band from each utterance.

    Args:
        waveforms: (B, T) at 16 kHz; not modified.
        lengths: (B,) valid samples; None means full rows.
        low_hz: (B,) lower edges in Hz, from 0, or one for all.
        high_hz: (B,) upper edges in Hz, above `low_hz`, up to 8000, or one for all.

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
    kernels = to_device(torch.from_numpy(design(low, high).astype(np.float32)), waveforms.device)
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
    low, high = (np.asarray(edges, dtype=np.float64)[:, None] for edges in (low_hz, high_hz))  # (B, 1)
    n = np.arange(-_CENTRE, _CENTRE + 1)
    window = _window(np.where(high < _NYQUIST_HZ, high, low), n)
    low, high = low / _NYQUIST_HZ, high / _NYQUIST_HZ
    return (low * np.sinc(low * n) - high * np.sinc(high * n)) * window + (n == 0)


def _window(edges_hz: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Kaiser windows, I0(beta sqrt(1 - (n / M)^2)) / I0(beta) for |n| <= M: (B, 1) and (L,) -> (B, L)."""
    limited = np.clip(edges_hz, _EDGES_HZ[0], _EDGES_HZ[-1])
    beta = np.interp(np.log2(limited), np.log2(_EDGES_HZ), _KAISER_BETAS)
    half = 158 + np.floor((beta - _SHAPE_OF_158) / _SHAPE_STEP)
    inside = 1 - (n / half) ** 2
    return np.where(inside >= 0, np.i0(beta * np.sqrt(np.maximum(inside, 0))) / np.i0(beta), 0)


def mel_band(scaler: float, width_draw: float, place_draw: float) -> tuple[float, float]:
    """A band as WavAugment draws it.

    Args:
        scaler: the width is uniform in [0, 27 · scaler] of 256 mel bins, but at least one bin.
        width_draw: in [0, 1).
        place_draw: in [0, 1); the place is uniform, too.

    Returns:
        Lower and upper edge in Hz.
    """
    width = max(width_draw * MAX_BAND_BINS * scaler, MIN_BAND_BINS)
    start = place_draw * (MEL_BINS - width)
    return _bin_to_hz(start), _bin_to_hz(start + width)


def _bin_to_hz(position: float) -> float:
    """HTK: hz = 700 (10^(mel / 2595) - 1)."""
    return min(700 * (10 ** (position / MEL_BINS * _TOP_MEL / 2595) - 1), 8000.0)
