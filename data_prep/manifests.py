"""What all corpora share: finding audio files and writing lhotse manifests."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import soundfile
from lhotse import CutSet, MonoCut, Recording
from lhotse.audio import AudioSource
from lhotse.cut import Cut

from distill.errors import DataError

SAMPLE_RATE = 16_000

AUDIO_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff", ".aif"})
"""What libsndfile, the library behind soundfile, decodes."""

_MAX_FRAMES = 2**40  # a stream of unknown length announces the largest integer there is


def write_cuts(cuts: Iterable[Cut], path: Path) -> None:
    """Write a manifest; a reader never sees a half-written one.

    Args:
        cuts: read once, written as they come.
        path: ends in `.jsonl.gz` or `.jsonl`; its folder is made.
    """
    path = Path(path)
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"path: a manifest is named *.jsonl.gz or *.jsonl, not {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same suffix, which lhotse takes the compression from; the same folder, so that the rename is atomic.
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        with CutSet.open_writer(partial, overwrite=True) as writer:
            for cut in cuts:
                writer.write(cut)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def audio_files(folder: Path) -> list[Path]:
    """All audio files below `folder`, sorted, linked folders included and hidden ones left out.

    Raises:
        DataError: `folder` does not exist or is not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name the folder that holds the audio files")
    found: list[Path] = []
    visited: set[str] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link to a folder above would never end
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES
        ]
    return sorted(found)


def cut_from_file(path: Path, id: str | None = None) -> MonoCut:  # noqa: A002
    """A cut over a whole audio file, read as 16 kHz mono: the first channel, resampled while loading.

    Only the header is read. The cut names the file by its absolute path.

    Args:
        path: a file that soundfile can read.
        id: of cut and recording; the file's name without suffix if not given.

    Raises:
        DataError: the file is missing, unreadable, empty or of unknown length.
    """
    path = Path(path).absolute()
    name = path.stem if id is None else id
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise DataError(f"{path}: not readable as audio ({error}); convert or remove it") from error
    if info.frames <= 0 or info.samplerate <= 0:
        raise DataError(f"{path}: holds no samples; remove it")
    if info.frames >= _MAX_FRAMES:
        raise DataError(f"{path}: its header does not say how long it is; write it anew")
    recording = Recording(
        id=name,
        sources=[AudioSource(type="file", channels=list(range(info.channels)), source=str(path))],
        sampling_rate=info.samplerate,
        num_samples=info.frames,
        duration=info.frames / info.samplerate,
    )
    if info.samplerate != SAMPLE_RATE:
        recording = recording.resample(SAMPLE_RATE)
    return MonoCut(id=name, start=0, duration=recording.duration, channel=0, recording=recording)
