"""Cuts by number: reading one costs the same in a manifest of a hundred lines as in one of ten million."""

from __future__ import annotations

import bisect
import itertools
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lhotse.cut import Cut

from distill.atomic import read_json
from distill.data.lines import cut_of, unusable_line
from distill.data.manifest_index import LINE, index_folder
from distill.data.unusable import why_unusable
from distill.errors import DataError
from distill.hashing import hash_text
from distill.waveforms import SAMPLE_RATE


class ListedCuts(Sequence[Cut]):
    """Cuts that are in memory, with the interface of `ManifestCuts`."""

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
    """The cuts of a `.jsonl` or `.jsonl.gz` file, each read when it is asked for (see `manifest_index`).

    A line that is not a cut is a cut of no length that cannot be read (`unusable_line`).

    Args:
        path: the manifest.

    Raises:
        DataError: no line is a cut, or the file is cut off or damaged.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).absolute()
        folder = index_folder(self.path)
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
            if zlib.crc32(text) != line["checksum"]:
                raise DataError(f"changed since it was indexed, or damaged on the disk ({self._text})")
            return cut_of(text)
        except DataError as error:
            return unusable_line(self.path, int(line["number"]), error)

    def durations(self, numbers: np.ndarray) -> np.ndarray:
        """Seconds of these cuts, float32."""
        return self._records(numbers)["seconds"].copy()

    def _records(self, numbers: np.ndarray) -> np.ndarray:
        file = self._file(self._lines)
        size = LINE.itemsize
        # Read, not memory-mapped: touched pages of a mapping count as the process's memory.
        return np.frombuffer(b"".join(os.pread(file, size, int(i) * size) for i in numbers), dtype=LINE)

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


class ChosenCuts(Sequence[Cut]):
    """Some of the cuts of a source, in its order.

    Args:
        whole: all of them.
        numbers: which; at least one.
    """

    def __init__(self, whole: Cuts, numbers: np.ndarray):
        self.whole = whole
        self.numbers = numbers.astype(np.int64)
        self.seconds = float(whole.durations(self.numbers).sum(dtype=np.float64))

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: Any) -> Any:
        return self.whole[int(self.numbers[number])]

    def durations(self, numbers: np.ndarray) -> np.ndarray:
        """Seconds of these cuts, float32."""
        return self.whole.durations(self.numbers[np.asarray(numbers, dtype=np.int64)])


Cuts = ListedCuts | ManifestCuts | JoinedCuts | ChosenCuts


def at_least(cuts: Cuts, min_samples: int) -> Cuts:
    """The cuts of at least so many samples at 16 kHz, in the same order; the same object if that is all.

    What cannot be read stays, to be listed as such when its turn comes.

    Raises:
        DataError: none is that long.
    """
    if not min_samples:
        return cuts
    samples = np.rint(cuts.durations(np.arange(len(cuts))).astype(np.float64) * SAMPLE_RATE)
    kept = samples >= min_samples
    for number in np.flatnonzero(~kept & np.isin(samples, (0, SAMPLE_RATE))):  # nominal lengths
        kept[number] = bool(why_unusable(cuts[int(number)]))
    if not kept.any():
        raise DataError(f"all {len(cuts)} utterances are shorter than {min_samples / SAMPLE_RATE:g} s")
    return cuts if kept.all() else ChosenCuts(cuts, np.flatnonzero(kept))


def fingerprint(cuts: Cuts) -> dict[str, Any]:
    """What tells whether a position in these cuts still means the same: their number, and which stand where.

    The digest is of the ids of a thousand cuts spread over all; where their audio is does not matter.
    """
    positions = np.unique(np.linspace(0, len(cuts) - 1, 1000).round().astype(int))
    names = "\n".join(cuts[int(position)].id for position in positions)
    return {
        "utterances": len(cuts),
        "digest": hash_text(names, digest_size=16),
    }
