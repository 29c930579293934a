"""The index of a manifest: where each line is and how long its audio, so that any line is read at once.

The manifest is read once, from start to end. Nothing of the index is held in memory, so that a run starts,
shuffles and resumes at once whether the manifest has a hundred lines or ten million.
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
from distill.data.files import cache_folder, regular_file
from distill.data.lines import cut_lines, cut_of, opened, plausible
from distill.errors import DataError
from distill.hashing import hash_text

_VERSION = 2  # raise it when the files of an index change
LINE = np.dtype([("offset", "<u8"), ("n_bytes", "<u4"), ("seconds", "<f4"), ("number", "<u4")])
# The beginning of a cut as lhotse writes it; any other order of keys is parsed as a whole.
_DURATION = re.compile(rb'\{"id": "[^"\\]*", "start": [^,]+, "duration": ([-+.0-9e]+),')
_CHUNK = 65_536  # lines of the index written at once


def index_folder(path: Path) -> Path:
    """The folder of a manifest's index, made if there is none of this version of it."""
    state = regular_file(path).stat()
    wanted = {"version": _VERSION, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    folder = _place_of_index(path)
    if not _is_current(folder, wanted):
        with FileLock(f"{folder}.lock"):  # of several processes on a machine, one makes it
            if not _is_current(folder, wanted):
                _make_index(path, folder, wanted)
    return folder


def _is_current(folder: Path, wanted: dict[str, int]) -> bool:
    """Whether the index is of this state of the manifest, and whole."""
    try:
        about = read_json(folder / "about.json")
        sizes = {name: (folder / name).stat().st_size for name in about["files"]}
        whole = sizes == about["files"] and sizes["lines"] == about["cuts"] * LINE.itemsize
        return whole and about["seconds"] >= 0 and wanted.items() <= about.items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _place_of_index(path: Path) -> Path:
    beside = path.parent / ".index"
    if os.access(beside if beside.exists() else path.parent, os.W_OK):
        beside.mkdir(exist_ok=True)
        return beside / path.name
    cache = cache_folder("index")
    cache.mkdir(parents=True, exist_ok=True)
    return cache / f"{path.name}-{hash_text(str(path), digest_size=8)}"


def _make_index(path: Path, folder: Path, wanted: dict[str, int]) -> None:
    """Go through a manifest once; the folder appears when it is whole."""
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
    """Write where each cut's line is; returns the number of cuts and their seconds."""
    count, seconds, offset = 0, 0.0, 0
    records: list[tuple[int, int, float, int]] = []
    usable, first_problem = False, ""

    def flush() -> None:
        lines.write(np.array(records, dtype=LINE).tobytes())
        records.clear()
        progress()

    for number, line in source:
        unpacked.write(line)
        if line.strip():
            match = _DURATION.match(line)
            try:
                duration = plausible(match[1]) if match else plausible(cut_of(line).duration)
                usable = True
            except DataError as error:
                duration = 0.0
                first_problem = first_problem or f"line {number}: {error}"
            records.append((offset, len(line), duration, number))
            count += 1
            seconds += duration
        offset += len(line)
        if len(records) == _CHUNK:
            flush()
    flush()
    if count and not usable:
        raise DataError(f"{path}: not a lhotse cut manifest ({first_problem})")
    return {"cuts": count, "seconds": seconds}
