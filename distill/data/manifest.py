"""Cuts by number: reading one line of a manifest costs the same in a hundred lines as in ten million.

A manifest is read once, from end to end; an index beside it then says where each line is and how long its
audio. Nothing of it is held in memory, so that a run starts, shuffles and resumes at once wherever it is.
"""

from __future__ import annotations

import bisect
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from lhotse.cut import Cut
from tqdm import tqdm

from distill.atomic import read_json, write_json
from distill.data.files import cache_folder, regular_file
from distill.data.lines import cut_lines, cut_of, opened, plausible, unusable_line
from distill.errors import DataError
from distill.hashing import hash_text

_VERSION = 2  # raise it when the files of an index change
_LINE = np.dtype([("offset", "<u8"), ("n_bytes", "<u4"), ("seconds", "<f4"), ("number", "<u4")])
# The beginning of a cut as lhotse writes it; any other order of keys is parsed as a whole.
_DURATION = re.compile(rb'\{"id": "[^"\\]*", "start": [^,]+, "duration": ([-+.0-9e]+),')
_CHUNK = 65_536  # lines of the index written at once


class ListedCuts(Sequence[Cut]):
    """Cuts that are in memory, behind the same interface."""

    def __init__(self, cuts: Sequence[Cut]):
        self.cuts = list(cuts)
        self.seconds = float(sum(cut.duration for cut in self.cuts))

    def __len__(self) -> int:
        return len(self.cuts)

    def __getitem__(self, number: Any) -> Any:
        return self.cuts[number]

    def durations(self, numbers: np.ndarray) -> np.ndarray:
        """Seconds of these cuts, float32."""
        return np.array([self.cuts[number].duration for number in numbers], dtype=np.float32)


class ManifestCuts(Sequence[Cut]):
    """The cuts of a `.jsonl` or `.jsonl.gz` file, read when they are asked for.

    Made once, the index lies in `.index/NAME/` beside the manifest (in the user's cache folder where that
    cannot be written), with the unpacked lines if the manifest is compressed. It is made again when the
    manifest changes or files of the index are damaged.

    A line that is no cut is one all the same, of no length, that cannot be read (`unusable_line`).

    Args:
        path: the manifest.

    Raises:
        DataError: no line is a cut, or the file is cut off or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        folder = _index(self.path)
        about = read_json(folder / "about.json")
        self.seconds: float = about["seconds"]
        self._n: int = about["cuts"]
        self._lines = folder / "lines"
        self._text = folder / "cuts.jsonl" if self.path.suffix == ".gz" else self.path
        self._opened: dict[Path, int] = {}

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < self._n:
            raise IndexError(f"{self.path}: no cut {number}, it has {self._n}")
        line = self._records(np.array([number]))[0]
        text = os.pread(self._file(self._text), int(line["n_bytes"]), int(line["offset"]))
        try:
            return cut_of(text)
        except DataError as error:
            return unusable_line(self.path, int(line["number"]), error)

    def durations(self, numbers: np.ndarray) -> np.ndarray:
        """Seconds of these cuts, float32."""
        return self._records(numbers)["seconds"].copy()

    def _records(self, numbers: np.ndarray) -> np.ndarray:
        file = self._file(self._lines)
        size = _LINE.itemsize
        # Read, not mapped: touched pages of a mapping count as memory.
        return np.frombuffer(b"".join(os.pread(file, size, int(i) * size) for i in numbers), dtype=_LINE)

    def _file(self, path: Path) -> int:
        if path not in self._opened:
            self._opened[path] = os.open(path, os.O_RDONLY)
        return self._opened[path]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}  # another process opens the files itself

    def __del__(self) -> None:
        for file in getattr(self, "_opened", {}).values():
            os.close(file)


class JoinedCuts(Sequence[Cut]):
    """Several sources, one after the other."""

    def __init__(self, parts: Sequence[ListedCuts | ManifestCuts]):
        self.parts = parts
        self.ends = list(itertools.accumulate(len(part) for part in parts))
        self.seconds = sum(part.seconds for part in parts)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, number: Any) -> Any:
        part = bisect.bisect_right(self.ends, number)
        return self.parts[part][int(number) - (self.ends[part] - len(self.parts[part]))]

    def durations(self, numbers: np.ndarray) -> np.ndarray:
        """Seconds of these cuts, float32."""
        found = np.empty(len(numbers), dtype=np.float32)
        owners = np.searchsorted(self.ends, numbers, side="right")
        for number, part in enumerate(self.parts):
            mine = owners == number
            found[mine] = part.durations(numbers[mine] - (self.ends[number] - len(part)))
        return found


Cuts = ListedCuts | ManifestCuts | JoinedCuts


def fingerprint(cuts: Cuts) -> dict[str, Any]:
    """How many utterances these are, and a digest of which stand where, from a thousand spread over all.

    Where their audio lies does not matter.
    """
    places = np.unique(np.linspace(0, len(cuts) - 1, 1000).round().astype(int))
    names = "\n".join(cuts[int(place)].id for place in places)
    return {
        "utterances": len(cuts),
        "digest": hash_text(names, digest_size=16),
    }


def _index(path: Path) -> Path:
    """The folder of a manifest's index, made if there is none of this version of it."""
    state = regular_file(path).stat()
    wanted = {"version": _VERSION, "bytes": state.st_size, "modified_ns": state.st_mtime_ns}
    folder = _index_folder(path)
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
        whole = sizes == about["files"] and sizes["lines"] == about["cuts"] * _LINE.itemsize
        return whole and about["seconds"] >= 0 and wanted.items() <= about.items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _index_folder(path: Path) -> Path:
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
        lines.write(np.array(records, dtype=_LINE).tobytes())
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
