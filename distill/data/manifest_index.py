"""The index of a manifest: where each line is and how long its audio is, so that any line is read at once.

The manifest is read once, from start to end. Nothing of the index is held in memory, so that a run starts,
shuffles and resumes at once whether the manifest has a hundred lines or ten million.

The index is a folder: `lines` (an array of `LINE`), `about.json`, and for a compressed manifest `cuts.jsonl`,
its lines uncompressed. It is `.index/NAME/` next to the manifest, or in the user's cache where that cannot be
written, and is made again when the manifest has changed or files of the index are damaged: `about.json` has
checksums of itself and of `lines`, which has one of each line. Links are not followed: a manifest may come
from a stranger with an index that is none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import socket
import stat
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from distill.atomic import read_json, write_json
from distill.data.bounded import LONGEST_LINE, opened
from distill.data.files import cache_folder, regular_file
from distill.data.lines import Tally, cut_lines, cut_of, plausible
from distill.errors import DataError
from distill.hashing import hash_files, hash_text

logger = logging.getLogger(__name__)

_VERSION = 3  # raise it when the files of an index change
LINE = np.dtype(
    [("offset", "<u8"), ("n_bytes", "<u4"), ("seconds", "<f4"), ("number", "<u4"), ("checksum", "<u4")]
)
"""Offset and size in bytes, duration of the audio, line number, from 1, and CRC-32 of the line."""

# The beginning of a cut as lhotse writes it; a line with its keys in another order is parsed in full.
_DURATION = re.compile(rb'\{"id": "[^"\\]*", "start": [^,]+, "duration": ([-+.0-9e]+),')
_CHUNK = 65_536  # lines of the index written at a time
_ABANDONED_S = 600.0  # an unfinished index that was not written to for so long; its writer is gone


def index_folder(path: Path) -> Path:
    """The folder of a manifest's index, which is made unless there is a current one.

    Raises:
        DataError: the manifest holds no cut, is cut off or damaged, or its index cannot be written.
    """
    state = regular_file(path).stat()
    wanted = {"version": _VERSION, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    folder = _where_index_goes(path)
    if not _is_current(folder, wanted) or _unfinished(folder):
        lock = Path(f"{folder}.lock")
        if lock.is_symlink() or (lock.exists() and not lock.is_file()):
            _remove(lock)
        with FileLock(lock):  # one of the processes on this machine makes it
            for left_over in _unfinished(folder):
                _remove(left_over)
            if not _is_current(folder, wanted):
                if os.path.lexists(folder) and not _is_outdated(folder, wanted):
                    logger.warning("%s: its index in %s is damaged, and made again", path, folder)
                _make_index(path, folder, wanted)
    return folder


def _is_current(folder: Path, wanted: dict[str, int]) -> bool:
    """Whether the index is complete and of this state of the manifest."""
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            return False
        _regular_size(folder / "about.json")
        about = read_json(folder / "about.json")
        sizes = {name: _regular_size(folder / name) for name in about["files"]}
        complete = sizes == about["files"] and sizes["lines"] == about["cuts"] * LINE.itemsize
        if not (complete and wanted.items() <= about.items() and about["checksum"] == _checksum(about)):
            return False
        return about["lines"] == hash_files([folder / "lines"], digest_size=16) and _plausible(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_outdated(folder: Path, wanted: Mapping[str, int]) -> bool:
    """Whether an index is whole, but of another version or state of the manifest."""
    try:
        about = read_json(folder / "about.json")
        noted = {key: about[key] for key in wanted}
        if noted["version"] != wanted["version"]:
            return True
        return noted != wanted and about["checksum"] == _checksum(about)
    except (OSError, ValueError, KeyError):
        return False


def _regular_size(path: Path) -> int:
    """Size of a regular file; OSError for anything else, such as a link or a pipe."""
    state = os.lstat(path)
    if not stat.S_ISREG(state.st_mode):
        raise OSError(f"{path} is not a regular file")
    return state.st_size


def _checksum(about: Mapping[str, Any]) -> str:
    """Of what `about.json` says, but for the checksum itself."""
    others = {key: value for key, value in about.items() if key != "checksum"}
    return hash_text(json.dumps(others, sort_keys=True), digest_size=16)


def _plausible(folder: Path) -> bool:
    """Whether no line of an index would be read into gigabytes, or has no duration: its maker is unknown."""
    with (folder / "lines").open("rb") as file:
        while data := file.read(_CHUNK * LINE.itemsize):
            lines = np.frombuffer(data, dtype=LINE)
            if lines["n_bytes"].max() > LONGEST_LINE or not (lines["seconds"] >= 0).all():
                return False
    return True


def _unfinished(folder: Path) -> list[Path]:
    """What killed processes left beside an index: `NAME.HOST.PID`; earlier versions named no host.

    One of this machine is left over if its lock is free; another machine may still be writing its own.
    """
    mine = re.compile(rf"{re.escape(folder.name)}\.(?:(?P<host>.+)\.)?\d+")
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder.parent):
            if match := mine.fullmatch(entry.name):
                here = match["host"] == socket.gethostname()
                if here or time.time() - _written(Path(entry.path)) > _ABANDONED_S:
                    found.append(Path(entry.path))
    return found


def _written(folder: Path) -> float:
    """When something in a folder was last written."""
    times = [folder.lstat().st_mtime]
    with contextlib.suppress(OSError):
        times += [entry.stat(follow_symlinks=False).st_mtime for entry in os.scandir(folder)]
    return max(times)


def _remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _where_index_goes(path: Path) -> Path:
    indices = path.parent / ".index"
    linked = os.path.lexists(indices) and not stat.S_ISDIR(os.lstat(indices).st_mode)
    if not linked and os.access(indices if indices.exists() else path.parent, os.W_OK):
        indices.mkdir(exist_ok=True)
        return indices / path.name
    cache = cache_folder("index")
    cache.mkdir(parents=True, exist_ok=True)
    return cache / f"{path.name}-{hash_text(str(path), digest_size=8)}"


def _make_index(path: Path, folder: Path, wanted: dict[str, int]) -> None:
    """Read a manifest once and write its index.

    The index appears when it is complete, by renaming a folder: `atomic` is for single files, and these
    belong together.
    """
    partial = folder.with_name(f"{folder.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        _remove(partial)
        partial.mkdir()
        packed = path.suffix == ".gz"
        with (
            opened(path) as (raw, source),
            (partial / "lines").open("wb") as lines,
            ((partial / "cuts.jsonl").open("wb") if packed else open(os.devnull, "wb")) as unpacked,
            tqdm(total=wanted["bytes"], unit="B", unit_scale=True, desc=f"indexing {path.name}", disable=None)
            as bar,
        ):  # fmt: skip
            about = _write_lines(
                cut_lines(source, path), lines, unpacked, path, lambda: bar.update(raw.tell() - bar.n)
            )
        files = {name: (partial / name).stat().st_size for name in ["lines", *["cuts.jsonl"] * packed]}
        about |= wanted | {"files": files, "lines": hash_files([partial / "lines"], digest_size=16)}
        write_json(partial / "about.json", about | {"checksum": _checksum(about)}, indent=None)
        if not _is_current(folder, wanted):  # another machine, which the lock may not reach, was faster
            _remove(folder)
            partial.rename(folder)
    except OSError as error:
        raise DataError(f"{path}: its index cannot be made in {folder.parent}: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_lines(
    source: Iterable[tuple[int, bytes]],
    lines: Any,
    unpacked: Any,
    path: Path,
    progress: Callable[[], object],
) -> dict[str, Any]:
    """Write where each cut's line is; return the number of cuts and their seconds."""
    count, seconds, offset = 0, 0.0, 0
    records: list[tuple[int, int, float, int, int]] = []
    tally = Tally(path)

    def flush() -> None:
        lines.write(np.array(records, dtype=LINE).tobytes())
        records.clear()
        progress()

    for number, line in source:
        unpacked.write(line)
        if not line.isspace():
            match = _DURATION.match(line)
            try:
                duration = plausible(match[1]) if match else plausible(cut_of(line).duration)
                tally.cut(line)
            except DataError as error:
                duration = 0.0
                tally.other(number, line, error)
            records.append((offset, len(line), duration, number, zlib.crc32(line)))
            count += 1
            seconds += duration
        offset += len(line)
        if len(records) == _CHUNK:
            flush()
    flush()
    tally.refuse_without_cut()
    return {"cuts": count, "seconds": seconds}
