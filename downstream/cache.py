"""Features of frozen models, extracted once, on disk, and read by any number of heads.

A cache is a folder: `about.json` says of which model and speech it is; every 256 utterances make a block, a
memory map with their frames one after the other, lists of their lengths and checksums, and a mark of the
audio files as they were. A block appears when it is complete: an interrupted run continues with the next.
One whose audio has changed since, or could not be read, is made again; audio that was only moved is the same.

Shapes: F frames, R rows of a block (frames of its utterances), L + 1 hidden states, D features.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from lhotse.cut import Cut
from torch import Tensor

from distill.atomic import atomic, write_json
from distill.data.audio import samples_at_16k
from distill.data.blocks import block_ranges, noted_settings
from distill.downstream.audio_marks import AudioMarks
from distill.downstream.features import Selection
from distill.encoder import Encoder
from distill.errors import UserError, differing_keys, refuse_other_settings
from distill.hashing import hash_lines

_BLOCK = 256  # utterances

_NAMES = {
    "checkpoint_hash": "checkpoint",
    "speech": "list of utterances",
    "audio": "place of the audio",
    "gain_db": "level",
}
"""What fields of `CacheIdentity` are called in messages."""


@dataclass(frozen=True, kw_only=True)
class CacheIdentity:
    """What a cache holds; another model, layer, type or speech needs another cache."""

    checkpoint_hash: str
    """Of the model's weights."""
    features: str
    """"last", "layer:K" or "weighted_sum" (all hidden states)."""
    dtype: str
    """"float16" or "float32"."""
    speech: str
    """Of the utterances' names and lengths."""
    audio: str
    """Of where their audio is, or was before it was moved."""
    gain_db: float = 0.0
    """Change of the audio's level, in dB; caches of earlier versions do not say that there was none."""
    version: int = 2
    """Of the files' layout; 1 did not say where the audio was."""


class FeatureCache:
    """The features of a list of utterances, complete or as far as they were extracted.

    Args:
        folder: of this cache alone; made if missing.
        cuts: the utterances, in any fixed order.
        encoder: the frozen model.
        selection: which of its hidden states.
        features: the same, by name.
        checkpoint_hash: of the model.
        dtype: "float16" or "float32".
        gain_db: by how much the audio's level is changed, in dB.

    Raises:
        UserError: if the folder holds features of another model or speech.
    """

    def __init__(
        self,
        folder: Path,
        cuts: Sequence[Cut],
        encoder: Encoder,
        selection: Selection,
        *,
        features: str,
        checkpoint_hash: str,
        dtype: str,
        gain_db: float = 0.0,
    ):
        self.folder = folder
        self.cuts = list(cuts)
        self.dtype = np.dtype(dtype)
        self.largest = float(np.finfo(self.dtype).max)
        dim = encoder.config.dim
        self.shape = (dim,) if selection.n_states is None else (selection.n_states, dim)
        samples = [samples_at_16k(cut) for cut in self.cuts]
        self.max_frames = np.array([encoder.config.frames(n) for n in samples], dtype=np.int64)
        self.numbers = {cut.id: number for number, cut in enumerate(self.cuts)}
        self.blocks = block_ranges(len(self.cuts), _BLOCK)
        self.marks = AudioMarks([[self.cuts[number] for number in block] for block in self.blocks])
        self.identity = CacheIdentity(
            checkpoint_hash=checkpoint_hash,
            features=features,
            dtype=dtype,
            speech=hash_lines(f"{cut.id}\t{n}" for cut, n in zip(self.cuts, samples, strict=True)),
            audio=self.marks.locations,
            gain_db=gain_db,
        )
        self._maps: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._noted: dict[int, np.ndarray | None] = {}  # checksums
        self._verified: set[tuple[int, int]] = set()  # block, and number in it
        self._check()
        self._failed: dict[int, int] = {}
        self._failed = {block: self._written_ns(block) for block in self._numbers if self._has_failed(block)}

    def _check(self) -> None:
        """Refuse a folder of other features; note if only the audio's place is another."""
        found = noted_settings(self.folder / "about.json")
        if found is None:
            return
        if not found:
            raise UserError(f"{self.folder / 'about.json'} is damaged: remove the cache, {self.folder}")
        differing = differing_keys({"gain_db": 0.0} | found, asdict(self.identity), unstated_ok=False)
        if differing == ["audio"] and self.marks.have_moved([self._mark(block) for block in self._numbers]):
            self.marks.is_moved = True
            return
        advice = "remove it, or name another cache_folder"
        if "version" in differing:
            raise UserError(
                f"{self.folder} is of an earlier version, which did not note where the audio is: {advice}"
            )
        refuse_other_settings(self.folder, [_NAMES.get(key, key) for key in differing], advice=advice)

    def sign(self) -> None:
        """Note in the folder what it is going to hold.

        Raises:
            UserError: if another run has noted something else meanwhile.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".about.lock"):
            self._check()
            if not (self.folder / "about.json").exists():
                write_json(self.folder / "about.json", asdict(self.identity))

    @property
    def _numbers(self) -> range:
        return range(len(self.blocks))

    @property
    def missing(self) -> list[int]:
        """Blocks that are still to be made."""
        return [block for block in self._numbers if not self.is_complete(block)]

    @property
    def outdated(self) -> list[int]:
        """Those of them that were made before."""
        return [block for block in self.missing if self._mark(block).exists()]

    @property
    def missing_bytes(self) -> int:
        """Disk that they will take."""
        return sum(self._rows(block) for block in self.missing) * self._row_bytes

    def is_complete(self, block: int) -> bool:
        """Whether a block exists, of the audio as it is now, and is not one that is to be tried again."""
        data, mark = self._data(block), self._mark(block)
        size = self._rows(block) * self._row_bytes
        if not all(path.exists() for path in (data, mark, self._lengths(block))):
            return False
        same = self.marks.is_of(block, mark) and self._read_list(self._lengths(block), block) is not None
        return same and data.stat().st_size == size and self._failed.get(block) != self._written_ns(block)

    def _has_failed(self, block: int) -> bool:
        """Whether some audio of a complete block could not be read: the next run tries again."""
        return self.is_complete(block) and bool((self._list_of(block) < 0).any())

    def _written_ns(self, block: int) -> int:
        """When a complete block was, in nanoseconds."""
        return self._mark(block).stat().st_mtime_ns

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def _rows(self, block: int) -> int:
        """R."""
        return int(self.max_frames[self.blocks[block]].sum())

    def _starts(self, block: int) -> np.ndarray:
        """Row at which each utterance begins, and R."""
        return np.concatenate([[0], np.cumsum(self.max_frames[self.blocks[block]])])

    def _data(self, block: int) -> Path:
        return self.folder / f"{block:05d}.features"

    def _lengths(self, block: int) -> Path:
        return self.folder / f"{block:05d}.frames.npy"

    def _checksums(self, block: int) -> Path:
        return self.folder / f"{block:05d}.crc.npy"  # caches of earlier versions have none

    def _read_list(self, path: Path, block: int) -> np.ndarray | None:
        """A number for each utterance of a block; None if there is no such file, or it is damaged."""
        try:
            found = np.load(path)
        except (OSError, ValueError, EOFError):
            return None
        fits = found.shape == (len(self.blocks[block]),) and found.dtype in (np.int32, np.uint32)
        return found if fits else None

    def _list_of(self, block: int) -> np.ndarray:
        """The lengths of a complete block, in frames, -1 of audio that could not be read."""
        found = self._read_list(self._lengths(block), block)
        assert found is not None, "is_complete has read it"
        return found

    def _mark(self, block: int) -> Path:
        return self.folder / f"{block:05d}.audio"  # written last: the block is complete

    def lock(self, block: int) -> FileLock:
        """Held by whoever makes a block, on this machine or another; `Timeout` if somebody else does."""
        return FileLock(self.folder / f".{block:05d}.lock", timeout=0)

    def write(self, block: int, features: Iterable[tuple[int, np.ndarray]]) -> None:
        """Write a block.

        Args:
            block: its number.
            features: of utterances, by number, in any order, (F, D) or (F, L + 1, D); those that do not come
                could not be read.
        """
        mark = self.marks.mark(block)  # of what is read next, or was before
        starts, first = self._starts(block), self.blocks[block].start
        frames = np.full(len(self.blocks[block]), -1, dtype=np.int32)
        checksums = np.zeros(len(frames), dtype=np.uint32)
        self._mark(block).unlink(missing_ok=True)  # of before: until all is new, there is no block
        # Written, not mapped: a full disk is an error then, and not the end of the process.
        with atomic(self._data(block), sole=True) as path, path.open("wb") as file:
            for number, rows in features:
                frames[number - first] = count = min(len(rows), int(self.max_frames[number]))
                file.seek(int(starts[number - first]) * self._row_bytes)
                data = rows[:count].clip(-self.largest, self.largest).astype(self.dtype).tobytes()
                checksums[number - first] = zlib.crc32(data)
                file.write(data)
            file.truncate(int(starts[-1]) * self._row_bytes)
        for name, numbers in ((self._lengths(block), frames), (self._checksums(block), checksums)):
            with atomic(name, sole=True) as path, path.open("wb") as file:
                np.save(file, numbers)
        with atomic(self._mark(block), sole=True) as path:
            path.write_text(mark, encoding="utf-8")

    def __contains__(self, name: str) -> bool:
        return name in self.numbers

    def read(self, name: str) -> Tensor | None:
        """(F, D) or (F, L + 1, D) float32 of an utterance; None if its audio could not be read.

        Raises:
            UserError: if what was written is damaged.
        """
        block, index = divmod(self.numbers[name], _BLOCK)
        if block not in self._maps:
            shape = (self._rows(block), *self.shape)
            data = np.memmap(self._data(block), dtype=self.dtype, mode="r", shape=shape)
            self._maps[block] = (data, self._list_of(block), self._starts(block))
            self._noted[block] = self._read_list(self._checksums(block), block)
        data, frames, starts = self._maps[block]
        if frames[index] < 0:
            return None
        start = int(starts[index])
        rows = np.array(data[start : start + int(frames[index])])
        self._verify(rows, block, index)
        return torch.from_numpy(rows.astype(np.float32))

    def _verify(self, rows: np.ndarray, block: int, index: int) -> None:
        """Compare what is read for the first time with its checksum."""
        checksums = self._noted[block]
        if checksums is None or (block, index) in self._verified:
            return
        if zlib.crc32(rows.tobytes()) != checksums[index]:
            raise UserError(
                f"{self._data(block)} is damaged (an utterance does not match its checksum): remove it, and "
                "its block is made again"
            )
        self._verified.add((block, index))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}, "_noted": {}}  # another process maps the files itself
