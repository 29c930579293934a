"""The samples of a cut."""

from __future__ import annotations

import numpy as np
import torch
from lhotse.cut import Cut, MonoCut
from torch import Tensor

from distill.data.opening import check_extent, opened_here
from distill.data.resampling import resample
from distill.data.unusable import blame
from distill.errors import DataError, first_line
from distill.waveforms import SAMPLE_RATE, is_silent

_STRETCH = 30 * SAMPLE_RATE  # samples searched for a sound at a time, after the first second

_MORE = r"\n[extra info]"  # what lhotse adds to our errors, which escape line ends


def read_audio(cut: Cut, start: int = 0, count: int | None = None) -> Tensor:
    """The samples of a cut, mono at 16 kHz. Only files and objects in stores are opened (`opened_here`).

    Args:
        cut: of any sampling rate and number of channels (averaged).
        start: first sample wanted, at 16 kHz.
        count: number of samples wanted, at 16 kHz; None: to the end.

    Raises:
        DataError: if the audio is in a place that is not opened, cannot be read, is shorter than promised or
            too long for the memory, or holds values that are not finite.
    """
    try:
        cut = opened_here(cut)
        if start or not _is_all_of(cut, count):
            duration = None if count is None else min(count / SAMPLE_RATE, cut.duration - start / SAMPLE_RATE)
            cut = cut.truncate(offset=start / SAMPLE_RATE, duration=duration, preserve_id=True)
        check_extent(cut)
        audio = cut.load_audio()
        assert audio is not None
        samples = torch.from_numpy(mono(np.atleast_2d(audio)))
        samples = resample(samples, int(cut.sampling_rate), SAMPLE_RATE)
    except DataError as error:
        raise DataError(blame(cut.id, reason(error))) from None
    except Exception as error:  # noqa: BLE001 every decoder has its own exceptions
        raise DataError(f"{cut.id}: cannot be read ({reason(error)})") from None
    if not all_finite(samples):
        raise DataError(f"{cut.id}: samples are not finite")
    return samples if count is None else samples[:count]


def _is_all_of(cut: Cut, count: int | None) -> bool:
    """Whether so many samples from the start on are surely the whole cut: cutting it takes a while."""
    at_our_rate = isinstance(cut, MonoCut) and cut.sampling_rate == SAMPLE_RATE
    return count is None or (at_our_rate and count == cut.num_samples)


def mono(audio: np.ndarray) -> np.ndarray:
    """The mean of the channels, (C, T) -> (T,) float32; of one channel its samples, in a single pass."""
    if len(audio) == 1 and audio.dtype == np.float32:
        return audio[0] + np.float32(0.0)  # as the mean has it, no zero is negative
    return audio.mean(0, dtype=np.float32)


def all_finite(samples: Tensor) -> bool:
    """Whether no sample is infinite or not a number.

    Their sum says so in one pass without a mask; it can be infinite though they are not.
    """
    return bool(torch.isfinite(samples.sum())) or bool(torch.isfinite(samples).all())


def silent_throughout(cut: Cut) -> bool:
    """Whether a recording holds nothing but silence; it is read up to its first sound.

    Raises:
        DataError: as `read_audio`.
    """
    start, count = 0, SAMPLE_RATE  # most recordings have sound in their first second
    while start < samples_at_16k(cut):
        if not is_silent(read_audio(cut, start, count)):
            return False
        start, count = start + count, _STRETCH
    return True


def reason(error: Exception) -> str:
    """The first line of an error; lhotse adds more lines with everything it knows about the cut."""
    first = first_line(error).partition(_MORE)[0]
    return (
        "its file is not as long as its manifest says"
        if first.startswith("The number of declared")
        else first
    )


def samples_at_16k(cut: Cut) -> int:
    """Length of a cut, in samples at 16 kHz."""
    return round(cut.duration * SAMPLE_RATE)
