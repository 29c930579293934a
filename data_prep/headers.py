"""Reading audio headers in parallel, remembering those that were read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from tqdm import tqdm

from distill.data.recordings import Header, read_header
from distill.errors import DataError


def read_headers(
    paths: Sequence[Path], cache: Path, *, jobs: int, label: str
) -> tuple[dict[Path, Header], dict[Path, str]]:
    """Headers of many files, read by threads, with a progress bar.

    Each header is appended to `cache` as soon as it is read, so that an interrupted call can be continued. A
    file whose size or time of change is not that in the cache is read again.

    Args:
        paths: files that exist.
        cache: a file of JSON lines; made if missing.
        jobs: threads.
        label: of the progress bar.

    Returns:
        Headers, and the reason for each file that cannot be read.
    """
    known = _load(cache)

    def look(path: Path) -> tuple[str, Header | str, bool]:
        try:
            status = os.stat(path)
            key = f"{path}|{status.st_size}|{status.st_mtime_ns}"
            if key in known:
                return key, known[key], False
            return key, read_header(path), True
        except OSError as error:
            return "", f"{path}: cannot be read ({error.strerror})", False
        except DataError as error:
            return "", str(error), False

    headers: dict[Path, Header] = {}
    broken: dict[Path, str] = {}
    pool = ThreadPoolExecutor(jobs)
    try:
        with _open(cache) as lines:
            bar = tqdm(pool.map(look, paths), total=len(paths), desc=label, unit="file", disable=None)
            for path, (key, found, is_new) in zip(paths, bar, strict=True):
                if isinstance(found, str):
                    broken[path] = found
                    continue
                headers[path] = found
                if is_new:
                    lines.write(json.dumps([key, *found]) + "\n")
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, the files that wait are not read
    return headers, broken


def _load(cache: Path) -> dict[str, Header]:
    known: dict[str, Header] = {}
    if cache.is_symlink():
        cache.unlink()  # what it leads to is none of ours
    if not cache.is_file():
        return known
    for line in cache.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        try:
            key, *numbers = json.loads(line)
            known[key] = Header(*numbers)
        except (ValueError, TypeError):
            continue  # the line that was being written when the process was killed
    return known


def _open(cache: Path) -> IO[str]:
    cache.parent.mkdir(parents=True, exist_ok=True)
    lines = cache.open("a", encoding="utf-8", buffering=1)  # line by line: a killed process loses none
    if lines.tell():
        lines.write("\n")  # ends the line that a killed process left unfinished
    return lines
