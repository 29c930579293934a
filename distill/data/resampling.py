"""Resampling between any two rates, in memory that does not depend on their ratio.

torchaudio and lhotse keep a filter for every phase between two rates: 160 of 475 taps for 44.1 kHz to 16 kHz,
but 16 000 of 11 141 taps for 11 127 Hz, and a header can name any rate. Where that is too much, we compute
the same filter at the output samples that are needed.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from distill.errors import DataError

LOWEST_HZ, HIGHEST_HZ = 1_000, 384_000
"""Rates that are read. A header that says 1 Hz would turn every sample into 16 000."""

# torchaudio's defaults, which are lhotse's too.
_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_MOST_TAPS = 2_000_000  # of all phases: 80 MB while they are computed
_AT_ONCE = 500_000  # taps computed at a time, in float64


def resample(samples: Tensor, source_hz: int, target_hz: int) -> Tensor:
    """As `torchaudio.functional.resample`, bit for bit where that needs no more than some 80 MB.

    Args:
        samples: (T,) float32.
        source_hz: their rate.
        target_hz: the rate wanted.

    Returns:
        (ceil(T * target_hz / source_hz),) float32.

    Raises:
        DataError: a rate is outside `LOWEST_HZ` to `HIGHEST_HZ`.
    """
    check_rates(source_hz, target_hz)
    if source_hz == target_hz:
        return samples
    if _needs_many_filters(source_hz, target_hz):
        return torch.from_numpy(_interpolate(samples.numpy(), source_hz, target_hz))
    import torchaudio.functional

    return torchaudio.functional.resample(samples, source_hz, target_hz)


def resample_channels(samples: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """As lhotse's transform `Resample`, bit for bit where that needs no more than some 80 MB.

    Its filter is computed in float64, torchaudio's in float32.

    Args:
        samples: (C, T) float32.
        source_hz: their rate.
        target_hz: the rate wanted.

    Returns:
        (C, ceil(T * target_hz / source_hz)) float32.

    Raises:
        DataError: a rate is outside `LOWEST_HZ` to `HIGHEST_HZ`.
    """
    check_rates(source_hz, target_hz)
    if source_hz == target_hz:
        return samples
    if _needs_many_filters(source_hz, target_hz):
        return np.stack([_interpolate(channel, source_hz, target_hz) for channel in samples])
    return _resampler(source_hz, target_hz)(torch.from_numpy(samples)).numpy()


def check_rates(*rates: float) -> None:
    """Refuse sampling rates that are not integers or that no recording of speech has.

    Raises:
        DataError: naming the rate.
    """
    for rate in rates:
        if not (isinstance(rate, int | float) and math.isfinite(rate) and rate == round(rate)):
            raise DataError(f"a sampling rate of {rate} Hz is not an integer")
        if not LOWEST_HZ <= rate <= HIGHEST_HZ:
            most = f"{LOWEST_HZ} to {HIGHEST_HZ} Hz"
            raise DataError(f"a sampling rate of {rate:g} Hz is not read, only {most}: convert the file")


@functools.lru_cache(maxsize=16)  # bounded, unlike lhotse's own: one for every rate that a manifest names
def _resampler(source_hz: int, target_hz: int) -> torch.nn.Module:
    from lhotse.augmentation.resample import Resample

    return Resample(source_hz, target_hz)


def _terms(source_hz: int, target_hz: int) -> tuple[int, int, int]:
    """The ratio in lowest terms, and the number of samples on either side that the filter needs."""
    divisor = math.gcd(source_hz, target_hz)
    source, target = source_hz // divisor, target_hz // divisor
    return source, target, math.ceil(_ZERO_CROSSINGS * source / (min(source, target) * _ROLLOFF))


def _needs_many_filters(source_hz: int, target_hz: int) -> bool:
    source, target, width = _terms(int(source_hz), int(target_hz))
    return target * (2 * width + source) > _MOST_TAPS


def _interpolate(samples: np.ndarray, source_hz: int, target_hz: int) -> np.ndarray:
    """Hann-windowed sinc interpolation, (T,) -> (T',) float32.

    y[j] = sum_i x[i] h(b (i / s - j / t)) b / s,  h(u) = sinc(u) cos^2(pi u / 12) for |u| < 6,
    with s / t the ratio of the rates and b = 0.99 min(s, t).
    """
    source, target, width = _terms(int(source_hz), int(target_hz))
    band = min(source, target) * _ROLLOFF
    count = -(-target * len(samples) // source)
    padded = np.pad(samples.astype(np.float64), (width, width + 1))
    reach = np.arange(-width, width + 2)
    out = np.empty(count, dtype=np.float32)
    at_once = max(_AT_ONCE // len(reach), 1)
    for first in range(0, count, at_once):
        outputs = np.arange(first, min(first + at_once, count), dtype=np.int64)
        nearest = outputs * source // target
        taken = nearest[:, None] + reach
        u = (taken * target - outputs[:, None] * source) * (band / (source * target))
        taps = np.sinc(u) * np.cos(np.clip(u, -_ZERO_CROSSINGS, _ZERO_CROSSINGS) * (np.pi / 12)) ** 2
        out[first : first + len(outputs)] = (padded[taken + width] * taps).sum(1) * (band / source)
    return out
