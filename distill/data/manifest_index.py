"""The index of a manifest: where each line is and how long its audio is, so that any line is read at once.

The manifest is read once, from start to end. Nothing of the index is held in memory, so that a run starts,
shuffles and resumes at once whether the manifest has a hundred lines or ten million.

The index is a folder: `lines` (an array of `LINE`), `about.json`, and for a compressed manifest `cuts.jsonl`,
its lines uncompressed. It is `.index/NAME/` next to the manifest, or in the user's cache where that cannot be
written, and is made again when the manifest has changed or files of the index are damaged.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from distill.atomic import read_json, write_json
from distill.data.bounded import opened
from distill.data.files import cache_folder, regular_file
from distill.data.lines import Tally, cut_lines, cut_of, plausible
from distill.errors import DataError
from distill.hashing import hash_text

_VERSION = 2  # raise it when the files of an index change
LINE = np.dtype([("offset", "<u8"), ("n_bytes", "<u4"), ("seconds", "<f4"), ("number", "<u4")])
"""Offset and size in bytes, duration of the audio, and line number, from 1."""

# The beginning of a cut as lhotse writes it; a line with its keys in another order is parsed in full.
_DURATION = re.compile(rb'\{"id": "[^"\\]*", "start": [^,]+, "duration": ([-+.0-9e]+),')
_CHUNK = 65_536  # lines of the index written at a time


def index_folder(path: Path) -> Path:
    """The folder of a manifest's index, which is made unless there is a current one.

    Raises:
        DataError: the manifest holds no cut, is cut off or damaged, or its index cannot be written.
    """
    state = regular_file(path).stat()
    wanted = {"version": _VERSION, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    folder = _where_index_goes(path)
    if not _is_current(folder, wanted):
        with FileLock(f"{folder}.lock"):  # one of the processes on this machine makes it
            if not _is_current(folder, wanted):
                _make_index(path, folder, wanted)
    return folder


def _is_current(folder: Path, wanted: dict[str, int]) -> bool:
    """Whether the index is complete and of this state of the manifest."""
    try:
        about = read_json(folder / "about.json")
        sizes = {name: (folder / name).stat().st_size for name in about["files"]}
        complete = sizes == about["files"] and sizes["lines"] == about["cuts"] * LINE.itemsize
        return complete and about["seconds"] >= 0 and wanted.items() <= about.items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _where_index_goes(path: Path) -> Path:
    indices = path.parent / ".index"
    if os.access(indices if indices.exists() else path.parent, os.W_OK):
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
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
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
        about |= wanted | {"files": files}
        write_json(partial / "about.json", about, indent=None)
        if folder.is_dir():
            shutil.rmtree(folder)
        else:
            folder.unlink(missing_ok=True)
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
    records: list[tuple[int, int, float, int]] = []
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
            records.append((offset, len(line), duration, number))
            count += 1
            seconds += duration
        offset += len(line)
        if len(records) == _CHUNK:
            flush()
    flush()
    tally.refuse_without_cut()
    return {"cuts": count, "seconds": seconds}
