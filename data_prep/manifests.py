"""Cuts over audio files, and writing manifests of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lhotse import CutSet, MonoCut, Recording
from lhotse.cut import Cut
from lhotse.cut.data import DataCut

from distill.atomic import atomic
from distill.data.recordings import Header, read_header, recording_of
from distill.waveforms import SAMPLE_RATE


def write_cuts(cuts: Iterable[Cut], path: Path) -> tuple[int, float]:
    """Write a manifest; a reader never sees a half-written one.

    Args:
        cuts: read once, written as they come.
        path: ends in `.jsonl.gz` or `.jsonl`; its folder is made.

    Returns:
        The number of cuts and their seconds.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"path: a manifest is named *.jsonl.gz or *.jsonl, not {path.name}")
    count, seconds = 0, 0.0
    with atomic(path) as temporary, CutSet.open_writer(temporary, overwrite=True) as writer:
        for cut in cuts:
            writer.write(cut)
            count += 1
            seconds += cut.duration
    return count, seconds


def cut_from_file(path: Path, id: str | None = None) -> MonoCut:  # noqa: A002
    """A cut over a complete audio file, read as 16 kHz mono: the first channel, resampled while loading.

    Only the header is read. The cut names the file by its absolute path.

    Args:
        path: a file that soundfile can read.
        id: of cut and recording; the file's name without suffix if not given.

    Raises:
        DataError: the file is missing, unreadable, empty or of unknown length.
    """
    path = Path(path).absolute()
    return cut_from_header(path, read_header(path), path.stem if id is None else id)


def cut_from_header(path: Path, header: Header, id: str) -> MonoCut:  # noqa: A002
    """As `cut_from_file`, with a header that was read before. `path` is absolute."""
    recording = _recording(path, header, id)
    return MonoCut(id=id, start=0, duration=recording.duration, channel=0, recording=recording)


def cut_of_all_channels(path: Path, id: str) -> DataCut:  # noqa: A002
    """As `cut_from_file`, but over all channels of a file, which `distill.data.audio.read_audio` averages."""
    path = Path(path).absolute()
    return _recording(path, read_header(path), id).to_cut()  # pyright: ignore[reportReturnType]


def _recording(path: Path, header: Header, id: str) -> Recording:  # noqa: A002
    recording = recording_of(path, header, id)
    return recording if header.sampling_rate == SAMPLE_RATE else recording.resample(SAMPLE_RATE)
