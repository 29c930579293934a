"""A hash of what recordings hold: it changes with their samples and not with the folder they are in.

What was computed from some audio (heads, scores, cluster labels) is reused for the same audio only. Moving a
corpus does not change what it holds; a distorted copy under the same names does.
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

_VERSION = 1  # raise it when the hash of the same audio changes
_SHORT = 512 * 1024  # bytes: recordings that are always read in full
_STRETCH = 16 * 1024  # bytes; of a longer recording, three such stretches are read
_BLOCK = 1 << 20  # bytes read at a time
_WORTH_KEEPING = 64 << 20  # bytes; reading more takes over a second, so the hash is cached
_JOBS = 16  # threads: file systems of clusters answer slowly, but many at once


def contents_of(cuts: Sequence[Cut], *, in_full: bool, missing_ok: bool = False) -> str:
    """Hash of what utterances hold: their ids, the bytes of their recordings, and what is cut out of them.

    Files whose size and times of change stay the same are not read again. Audio that is not on this machine
    is not read: the last part of its address stands for it.

    Args:
        cuts: the utterances, whose order counts.
        in_full: read every byte; False: of recordings above 512 kB the beginning, the middle and the end.
        missing_ok: hash "cannot be read" in place of what cannot be read.

    Returns:
        32 hexadecimal digits.

    Raises:
        DataError: naming a file that cannot be read.
    """
    sources = {_name(source): source for cut in cuts for source in _sources(cut)}
    with ThreadPoolExecutor(_JOBS) as pool:
        states = dict(zip(sources, pool.map(_state, sources.values()), strict=True))
        key = hash_lines([f"{_VERSION} {in_full}", *_lines(cuts, states)])
        if (cached := _cached(key)) is not None:
            return cached
        reading = pool.map(lambda source: _read(source, in_full, missing_ok), sources.values())
        shown = tqdm(reading, "hashing audio", len(sources), leave=False, disable=None, unit="file")
        read = dict(zip(sources, shown, strict=True))
    found = hash_lines(_lines(cuts, {name: digest for name, (digest, _) in read.items()}))
    if sum(n_bytes for _, n_bytes in read.values()) > _WORTH_KEEPING:
        _cache(key, found)
    return found


def _sources(cut: Cut) -> Iterator[AudioSource]:
    for part in parts_of(cut):
        yield from part.recording.sources if part.recording is not None else ()


def _name(source: AudioSource) -> str:
    """What identifies a source in this process: its path or address, or which object in memory it is."""
    return str(source.source) if isinstance(source.source, str | Path) else f"memory {id(source.source)}"


def _lines(cuts: Sequence[Cut], named: Mapping[str, str]) -> Iterator[str]:
    """A line for each utterance: what is taken from which source, with sources named as in `named`."""
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
    """A transform of a recording as in a manifest: a dictionary of "name" and "kwargs"."""
    return change if isinstance(change, dict) else change.to_dict()


def _state(source: AudioSource) -> str:
    """Path of a source and state of its file: if both are unchanged, so is what it holds."""
    name = _name(source)
    file = name.rpartition("#")[0] if source.type == "shar" else name
    try:
        state = os.stat(local_path(file) or file)
    except (OSError, ValueError):
        return name
    return f"{name} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def _read(source: AudioSource, in_full: bool, missing_ok: bool) -> tuple[str, int]:
    """Hash of what a source holds, and the number of bytes read for it."""
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
            stretches = [(begin, _STRETCH) for begin in (0, (size - _STRETCH) // 2, size - _STRETCH)]
        for begin, count in stretches:
            opened.seek(start + begin)
            for done in range(0, count, _BLOCK):
                digest.update(opened.read(min(_BLOCK, count - done)))
    return digest.hexdigest(), sum(count for _, count in stretches)


def _cached(key: str) -> str | None:
    """The cached hash of audio in that state, if there is one."""
    try:
        found = (cache_folder("contents") / key).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return found if len(found) == 32 else None


def _cache(key: str, found: str) -> None:
    with contextlib.suppress(OSError):  # the audio is then read again next time
        write_text(cache_folder("contents") / key, f"{found}\n")
