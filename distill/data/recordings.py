"""Recordings: what audio files say about themselves, and what cuts are cut from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from lhotse.cut import Cut, MixedCut
from lhotse.cut.data import DataCut

from distill.data.files import regular_file
from distill.data.patience import patiently
from distill.data.resampling import check_rates
from distill.errors import DataError

MAX_FRAMES = 2**40
"""More frames than this mean a stream of unknown length: its header holds the largest integer."""

_CUT_OFF = re.compile(r"^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)$", re.MULTILINE)
"""libsndfile's note about a header that promises more bytes than the file has."""
_UNKNOWN_BYTES = 2**31 - 2**16  # from here on the header of a stream that did not know its length
_MISCOUNTED = 128  # bytes; some programs count the header as audio


class Header(NamedTuple):
    """What an audio file says about itself."""

    n_samples: int
    """Per channel, at `sampling_rate`."""
    sampling_rate: int
    n_channels: int


def read_header(path: str | Path) -> Header:
    """Read the header of a file.

    Raises:
        DataError: it is not a regular file, or unreadable, empty, cut off, of unknown length or of a rate
            not read, or does not answer.
    """
    try:
        return patiently(_read_header, path)
    except DataError as error:
        if str(path) in str(error) or "Hz is not" in str(error):
            raise
        raise DataError(f"{path} {error}") from None


def _read_header(path: str | Path) -> Header:
    path = regular_file(path)
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        why = getattr(error, "error_string", str(error)).rstrip(".")
        raise DataError(f"{path} cannot be read ({why})") from None
    if info.frames <= 0 or info.samplerate <= 0:
        raise DataError(f"{path} holds no samples")
    if info.frames >= MAX_FRAMES:
        raise DataError(f"{path} does not say how long it is in its header; convert it again")
    if cut := _CUT_OFF.search(info.extra_info):
        promised, found = map(int, cut.groups())
        if found + _MISCOUNTED < promised < _UNKNOWN_BYTES:
            raise DataError(f"{path} is cut off: it has {found} of the {promised} bytes that its header says")
    check_rates(info.samplerate)
    return Header(info.frames, info.samplerate, info.channels)


def recording_of(path: str | Path, header: Header, name: str) -> Recording:
    """A recording of a complete file, with all its channels."""
    return Recording(
        id=name,
        sources=[AudioSource(type="file", channels=list(range(header.n_channels)), source=str(path))],
        sampling_rate=header.sampling_rate,
        num_samples=header.n_samples,
        duration=header.n_samples / header.sampling_rate,
    )


def parts_of(cut: Cut) -> Iterator[DataCut]:
    """A cut of a recording, or those that a mixture is made of."""
    if isinstance(cut, MixedCut):
        for track in cut.tracks:
            yield from parts_of(track.cut)
    elif isinstance(cut, DataCut) and cut.recording is not None:
        yield cut


def recordings_of(cut: Cut) -> list[Recording]:
    """What a cut, or each part of a mixture, is cut from."""
    return [part.recording for part in parts_of(cut) if part.recording is not None]


def audio_place(cut: Cut) -> str:
    """Where the audio of a cut is, for messages: file or URL, and the time that it starts at if not 0."""
    part = next(iter(parts_of(cut)), None)
    if part is None or part.recording is None:
        return "no recording"
    source = part.recording.sources[0].source
    name = str(source) if isinstance(source, str | Path) else "audio in memory"
    return f"{name} from {part.start:g} s on" if part.start else name


def file_rate(recording: Recording) -> int:
    """The sampling rate of the file, before resampling, according to the manifest."""
    for transform in recording.transforms or []:
        options = transform["kwargs"] if isinstance(transform, dict) else vars(transform)
        if "source_sampling_rate" in options:
            return options["source_sampling_rate"]
    return recording.sampling_rate
