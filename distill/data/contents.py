"""What recordings hold, in short: a name that changes with their samples, wherever they lie.

What was made of some audio (heads, scores, cluster labels) is kept for the same audio only. Moving a corpus
does not change what it holds; a distorted copy under the same names does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lhotse.audio import AudioSource
from lhotse.cut import Cut
from tqdm import tqdm

from distill.atomic import write_text
from distill.data.files import cache_folder, regular_file
from distill.data.recordings import parts_of
from distill.data.shar import place_of
from distill.data.stores import local_path
from distill.errors import DataError
from distill.hashing import hash_lines

_VERSION = 1  # raise it when the same audio gets another name
_SHORT = 512 * 1024  # bytes: recordings that are always read in full
_STRETCH = 16 * 1024  # bytes, of which three stand for a longer one
_BLOCK = 1 << 20  # bytes read at once
_WORTH_KEEPING = 64 << 20  # bytes read, a second or so, after which the outcome is kept
_JOBS = 16  # threads: file systems of clusters answer slowly, but many at once


def contents_of(cuts: Sequence[Cut], *, in_full: bool, missing_ok: bool = False) -> str:
    """A name of what some utterances hold: ids, the bytes of recordings, and what is cut out of them.

    As long as size and times of change of all files stay, they are not read again. Of audio that is not on
    this machine nothing is read: it goes by the last part of its address.

    Args:
        cuts: in an order of theirs.
        in_full: read every byte; False: of recordings above 512 kB the beginning, the middle and the end.
        missing_ok: what cannot be read counts as such.

    Raises:
        DataError: naming a file that cannot be read.
    """
    sources = {_name(source): source for cut in cuts for source in _sources(cut)}
    with ThreadPoolExecutor(_JOBS) as pool:
        states = dict(zip(sources, pool.map(_state, sources.values()), strict=True))
        key = hash_lines([f"{_VERSION} {in_full}", *_lines(cuts, states)])
        if (kept := _kept(key)) is not None:
            return kept
        reading = pool.map(lambda source: _read(source, in_full, missing_ok), sources.values())
        shown = tqdm(reading, "audio: known?", len(sources), leave=False, disable=None, unit="file")
        read = dict(zip(sources, shown, strict=True))
    found = hash_lines(_lines(cuts, {name: digest for name, (digest, _) in read.items()}))
    if sum(n_bytes for _, n_bytes in read.values()) > _WORTH_KEEPING:
        _keep(key, found)
    return found


def _sources(cut: Cut) -> Iterator[AudioSource]:
    for part in parts_of(cut):
        yield from part.recording.sources if part.recording is not None else ()


def _name(source: AudioSource) -> str:
    """Of a source in this process: its path or address, or which object in memory it is."""
    return str(source.source) if isinstance(source.source, str | Path) else f"memory {id(source.source)}"


def _lines(cuts: Sequence[Cut], named: Mapping[str, str]) -> Iterator[str]:
    """A line for each utterance: what is taken from where, with sources called as `named` says."""
    for cut in cuts:
        parts = []
        for part in parts_of(cut):
            assert part.recording is not None
            names = [named[_name(source)] for source in part.recording.sources]
            changes = [plain(change) for change in part.recording.transforms or ()]
            parts.append([names, part.start, part.duration, getattr(part, "channel", None), changes])
        mixed = [[track.offset, track.snr, track.cut.duration] for track in getattr(cut, "tracks", ())]
        yield json.dumps([cut.id, parts, mixed], sort_keys=True, default=str)


def plain(change: Any) -> dict[str, Any]:
    """A transform of a recording, as its manifest has it: "name" and "kwargs"."""
    return change if isinstance(change, dict) else change.to_dict()


def _state(source: AudioSource) -> str:
    """Place of a source and state of its file: what is the same holds the same."""
    name = _name(source)
    file = name.rpartition("#")[0] if source.type == "shar" else name
    try:
        state = os.stat(local_path(file) or file)
    except (OSError, ValueError):
        return name
    return f"{name} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def _read(source: AudioSource, in_full: bool, missing_ok: bool) -> tuple[str, int]:
    """Hash of what a source holds, and how many bytes were read for it."""
    if isinstance(source.source, bytes):
        return hashlib.blake2b(source.source, digest_size=16).hexdigest(), 0
    file, start, n_bytes = str(source.source), 0, None
    try:
        if source.type == "shar":
            file, start, n_bytes = place_of(source)
        local = local_path(file)
        if local is None:
            return f"{file.rpartition('/')[2]} {start} {n_bytes}", 0
        return _read_file(regular_file(local), start, n_bytes, in_full)
    except (OSError, DataError) as error:
        if missing_ok:
            return "cannot be read", 0
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} cannot be read ({error.strerror or error})") from None


def _read_file(file: Path, start: int, n_bytes: int | None, in_full: bool) -> tuple[str, int]:
    with open(file, "rb") as opened:
        size = os.fstat(opened.fileno()).st_size - start if n_bytes is None else n_bytes
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        stretches = [(0, size)]
        if not in_full and size > _SHORT:
            stretches = [(place, _STRETCH) for place in (0, (size - _STRETCH) // 2, size - _STRETCH)]
        for place, count in stretches:
            opened.seek(start + place)
            for done in range(0, count, _BLOCK):
                digest.update(opened.read(min(_BLOCK, count - done)))
    return digest.hexdigest(), sum(count for _, count in stretches)


def _kept(key: str) -> str | None:
    """What was found of audio in that state before."""
    try:
        found = (cache_folder("contents") / key).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return found if len(found) == 32 else None


def _keep(key: str, found: str) -> None:
    with contextlib.suppress(OSError):  # it is read again then
        write_text(cache_folder("contents") / key, f"{found}\n")
