"""Opening the audio that lhotse's manifests name, without lhotse's own readers.

A manifest may name a command, a pipe or a URL in place of a file, and lhotse would run or fetch it: in a
recording's sources, in the room response of a transform, in a track of a mixture. Manifests come from
strangers, too. So audio is read from regular files and object stores only, decoded by libsndfile; everything
else is refused by name.
"""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.audio.recording import assert_and_maybe_fix_num_samples
from lhotse.audio.utils import get_audio_duration_mismatch_tolerance
from lhotse.augmentation import AudioTransform, Resample, Speed, Volume
from lhotse.cut import Cut, MixedCut, PaddingCut
from lhotse.cut.data import DataCut
from lhotse.utils import compute_num_samples, fastcopy

from distill.data.files import regular_file
from distill.data.patience import patiently
from distill.data.recordings import MAX_FRAMES, file_rate, parts_of
from distill.data.resampling import check_rates, resample_channels
from distill.data.shar import place_of
from distill.data.stores import check_place, local_path, read_place
from distill.data.unusable import why_unusable
from distill.errors import DataError, first_line

MOST_VALUES = 2**27
"""Samples, over all channels, that are decoded for one utterance: 0.5 GB; 2.3 h of 16 kHz in one channel."""
_AT_ONCE = 2**22  # samples decoded at a time
_MOST_TRANSFORMS = 8  # of a recording; each is a pass over its audio
_SPEEDS = (0.25, 4.0)


def check_audio(cut: Cut) -> None:
    """Refuse a cut whose audio is not in files or object stores; nothing is opened.

    Raises:
        DataError: naming what it is instead.
    """
    try:
        _check_audio(cut)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        raise DataError(f"has values that are none in its manifest ({first_line(error)})") from None


def _check_audio(cut: Cut) -> None:
    if isinstance(cut, MixedCut):
        if cut.transforms:
            raise DataError(f"its mixture is to be changed by {_named(cut.transforms[0])}, {_DO_IT_FIRST}")
        for track in cut.tracks:
            _check_audio(track.cut)
    elif isinstance(cut, DataCut):
        if why := why_unusable(cut):
            raise DataError(why)
        if cut.recording is None:
            raise DataError("has no recording")
        _check_recording(cut.recording)
    elif not isinstance(cut, PaddingCut):
        raise DataError(f"is a {type(cut).__name__}, which is not read")


_DO_IT_FIRST = "which is not done while reading: write such audio to files first"


def _check_recording(recording: Recording) -> None:
    if not recording.sources:
        raise DataError("its recording has no source")
    for source in recording.sources:
        _check_source(source)
    rate = file_rate(recording)
    if len(recording.transforms or []) > _MOST_TRANSFORMS:
        raise DataError(f"its recording has more than {_MOST_TRANSFORMS} transforms, {_DO_IT_FIRST}")
    for transform in _transforms(recording):
        check_rates(rate)
        if isinstance(transform, Resample):
            if transform.source_sampling_rate != rate:
                raise DataError(
                    f"its audio of {rate} Hz is resampled from {transform.source_sampling_rate} Hz"
                )
            rate = transform.target_sampling_rate
            check_rates(rate)
        elif isinstance(transform, Speed) and not _SPEEDS[0] <= transform.factor <= _SPEEDS[1]:
            raise DataError(
                f"a speed of {transform.factor:g} is not read, only {_SPEEDS[0]} to {_SPEEDS[1]:g}"
            )
        elif isinstance(transform, Volume) and not math.isfinite(transform.factor):
            raise DataError(f"a volume of {transform.factor:g} is not read")
    if rate != recording.sampling_rate:
        raise DataError(f"its manifest says {recording.sampling_rate} Hz, its transforms end at {rate}")
    check_rates(rate)


def check_extent(cut: Cut) -> None:
    """Refuse a cut that would take gigabytes of memory; nothing is opened.

    Its parts count with the highest sampling rate that they have on the way, and as many channels as their
    manifest says; what the files say is checked when they are decoded.

    Raises:
        DataError: saying how long it is.
    """
    values = cut.duration * cut.sampling_rate
    if isinstance(cut, MixedCut):
        values += sum(_values(part) for part in parts_of(cut))
    else:
        values = max([values, *map(_values, parts_of(cut))])
    if not values <= MOST_VALUES:
        raise DataError(f"is {cut.duration / 3600:.1f} h long, more than is read at once: cut it into pieces")


def _values(part: DataCut) -> float:
    """Samples of a part of a cut, over all channels, at the highest of its sampling rates."""
    assert part.recording is not None
    rates = [file_rate(part.recording), part.recording.sampling_rate]
    rates += [t.target_sampling_rate for t in _transforms(part.recording) if isinstance(t, Resample)]
    return part.duration * max(rates) * max(part.recording.num_channels, 1)


def _check_source(source: AudioSource) -> None:
    if source.type in ("file", "url", "shar"):
        if not isinstance(source.source, str | Path):
            raise DataError(f"its source of type {source.type} is no path or URL")
        if source.type != "shar" and not str(source.source).strip():
            raise DataError("its source has no path")
        if source.type == "url":
            check_place(str(source.source))
        elif source.type == "shar":
            place_of(source)
    elif source.type == "command":
        raise DataError(
            f"its audio would come from a command ({_short(source.source)}), and commands are not run: write "
            "the audio to a file"
        )
    elif source.type != "memory" or not isinstance(source.source, bytes):
        raise DataError(f"its source is of type {_short(source.type)}, which is not read")


def _transforms(recording: Recording) -> list[Resample | Speed | Volume]:
    made: list[Any] = []
    for transform in recording.transforms or []:
        name = _named(transform)
        if name not in ("Resample", "Speed", "Volume"):
            raise DataError(f"its recording is to be changed by {name}, {_DO_IT_FIRST}")
        made.append(AudioTransform.from_dict(transform) if isinstance(transform, dict) else transform)
    return made


def _named(transform: Any) -> str:
    return _short(transform.get("name")) if isinstance(transform, dict) else type(transform).__name__


def _short(text: Any) -> str:
    printed = " ".join(str(text).split())
    return printed if len(printed) <= 40 else f"{printed[:40]}..."


def opened_here(cut: Cut) -> Cut:
    """The cut with recordings whose `load_audio` is ours: lhotse can cut and mix, but opens nothing.

    Raises:
        DataError: as `check_audio`.
    """
    check_audio(cut)
    return _opened_here(cut)


def _opened_here(cut: Cut) -> Cut:
    if isinstance(cut, MixedCut):
        return fastcopy(cut, tracks=[fastcopy(t, cut=_opened_here(t.cut)) for t in cut.tracks])
    if not isinstance(cut, DataCut):
        return cut
    assert cut.recording is not None
    return fastcopy(cut, recording=_OpenedHere(**vars(cut.recording)))


class _OpenedHere(Recording):
    """A recording that was checked by `check_audio`."""

    def load_audio(
        self, channels: Any = None, offset: float = 0.0, duration: float | None = None
    ) -> np.ndarray:
        """(C, T) float32 at `sampling_rate`, the same samples as lhotse's `Recording.load_audio` returns.

        Raises:
            DataError: a file cannot be read, has another rate than promised or is shorter.
        """
        wanted = None if channels is None else {channels} if isinstance(channels, int) else set(channels)
        if wanted is not None and not wanted.issubset(self.channel_ids or ()):
            raise DataError(f"its recording has channels {self.channel_ids}, not {sorted(wanted)}")
        asked = duration
        if duration is not None and math.isclose(duration, self.duration, abs_tol=1e-3):
            duration = None  # as in lhotse: the complete file, cut to length at the end
        transforms = _transforms(self)
        start, length = offset, duration
        for transform in reversed(transforms):
            start, length = transform.reverse_timestamps(start, length, self.sampling_rate)
        read = []
        for source in self.sources:
            if wanted is None or wanted.intersection(source.channels):
                samples = patiently(_read, source, file_rate(self), start, length)
                others = [i for i, c in enumerate(source.channels) if wanted is not None and c not in wanted]
                read.append(np.delete(samples, others, axis=0) if others else samples)
        one = len(read) == 1 and len(read[0]) == 1
        audio = read[0] if one else self._stack_audio_channels(read)  # which copies
        for transform in transforms:
            audio = _transformed(audio, transform, self.sampling_rate)
        return assert_and_maybe_fix_num_samples(audio, offset=offset, duration=asked, recording=self)


def _transformed(audio: np.ndarray, transform: Resample | Speed | Volume, rate: int) -> np.ndarray:
    if isinstance(transform, Resample):
        return resample_channels(audio, transform.source_sampling_rate, transform.target_sampling_rate)
    if isinstance(transform, Speed):
        return resample_channels(audio, round(rate * transform.factor), rate)
    return transform(audio, rate)


def _read(source: AudioSource, rate: int, start_s: float, length_s: float | None) -> np.ndarray:
    """(C, T) float32 of a source, at the rate of its file."""
    try:
        with soundfile.SoundFile(_stream(source)) as file:
            if file.samplerate != rate:
                raise DataError(f"its file has {file.samplerate} Hz, its manifest says {rate}")
            if file.frames >= MAX_FRAMES:
                raise DataError("its file does not say how long it is in its header; convert it again")
            if start_s > 0:
                file.seek(compute_num_samples(start_s, rate))
            samples = _decode(file, None if length_s is None else compute_num_samples(length_s, rate))
    except soundfile.SoundFileError as error:
        raise DataError(f"cannot be read ({first_line(error)})") from None
    if length_s is not None and samples.shape[1] / rate < length_s - get_audio_duration_mismatch_tolerance():
        raise DataError("its file is not as long as its manifest says")
    return samples


def _stream(source: AudioSource) -> str | io.BytesIO:
    if source.type == "memory":
        return io.BytesIO(source.source)  # pyright: ignore[reportArgumentType]
    place = str(source.source)
    if source.type == "file":
        return str(regular_file(place))
    if source.type == "shar":
        return io.BytesIO(read_place(*place_of(source)))
    local = local_path(place)
    return str(regular_file(local)) if local else io.BytesIO(read_place(place))


def _decode(file: soundfile.SoundFile, count: int | None) -> np.ndarray:
    """(C, T) float32 of the next `count` frames, or fewer: headers can be wrong about lengths."""
    wanted = max(file.frames if count is None else count, 0)
    if wanted * file.channels > MOST_VALUES:
        raise DataError(
            f"has {wanted} samples in {file.channels} channels, more than is read at once: cut it into pieces"
        )
    samples = np.empty((wanted, file.channels), dtype=np.float32)  # pages that stay unused cost nothing
    done = 0
    while done < wanted:
        asked = min(wanted - done, max(_AT_ONCE // file.channels, 1))
        found = len(file.read(asked, dtype="float32", always_2d=True, out=samples[done : done + asked]))
        done += found
        if found < asked:
            break
    return samples[:done].T
