"""Features of frozen models, extracted once, on disk, and read by any number of heads.

A cache is a folder: `about.json` says of which model and speech it is; every 256 utterances make a block, a
memory map with their frames one after the other, a list of their lengths, and a mark of the audio files as
they were. A block appears when it is whole: whoever was interrupted goes on with the next. One whose audio
has changed since, or could not be read, is made again; audio that was only moved is the same. Processes, on
one machine or several, take blocks that nobody else works on, so that they share the work without talking to
each other.

Shapes: F frames, R rows of a block (frames of its utterances), L + 1 hidden states, D features.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.atomic import atomic
from distill.data.audio import read_audio, samples_at_16k
from distill.downstream.audio_marks import AudioMarks
from distill.downstream.features import Selection
from distill.errors import DataError, UserError
from distill.hashing import hash_lines
from distill.hubert import HubertEncoder
from distill.waveforms import SAMPLE_RATE, pad

logger = logging.getLogger(__name__)

_BLOCK = 256  # utterances
_BATCH_SAMPLES = 60 * SAMPLE_RATE  # audio that is encoded together, padding included
_SPARE = 1 << 30  # bytes of disk that are left alone


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
    """The features of a list of utterances, all or as many as are there yet.

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
        encoder: HubertEncoder,
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
        self.hop = encoder.config.hop
        samples = [samples_at_16k(cut) for cut in self.cuts]
        self.room = np.array([encoder.config.frames(n) for n in samples], dtype=np.int64)
        self.numbers = {cut.id: number for number, cut in enumerate(self.cuts)}
        self.marks = AudioMarks([[self.cuts[n] for n in self._members(block)] for block in self.blocks])
        self.identity = CacheIdentity(
            checkpoint_hash=checkpoint_hash,
            features=features,
            dtype=dtype,
            speech=hash_lines(f"{cut.id}\t{n}" for cut, n in zip(self.cuts, samples, strict=True)),
            audio=self.marks.places,
            gain_db=gain_db,
        )
        self._maps: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._check()
        self.failed: dict[int, int] = {}
        self.failed = {block: self._written(block) for block in self.blocks if self._has_failed(block)}

    def _check(self) -> None:
        about = self.folder / "about.json"
        if not about.exists():
            return
        try:
            found = json.loads(about.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        found = {"gain_db": 0.0} | found
        differing = [key for key, value in asdict(self.identity).items() if found.get(key) != value]
        if differing == ["audio"] and self.marks.have_moved([self._mark(block) for block in self.blocks]):
            self.marks.is_moved = True
            return
        names = {
            "checkpoint_hash": "checkpoint",
            "speech": "list of utterances",
            "audio": "place of the audio",
            "gain_db": "level",
        }
        what = f"holds features of another {', '.join(names.get(key, key) for key in differing)}"
        if "version" in differing:
            what = "is of an earlier version, which did not note where the audio is"
        if differing:
            raise UserError(f"{self.folder} {what}: remove it, or name another cache_folder")

    @property
    def blocks(self) -> range:
        """Numbers of the blocks."""
        return range(-(-len(self.cuts) // _BLOCK))

    @property
    def missing(self) -> list[int]:
        """Blocks that are not there yet."""
        return [block for block in self.blocks if not self._is_whole(block)]

    @property
    def outdated(self) -> list[int]:
        """Those of them that were there once."""
        return [block for block in self.missing if self._mark(block).exists()]

    def _is_whole(self, block: int) -> bool:
        """Whether a block is there, of the audio as it is now, and not one that is to be tried again."""
        data, mark = self._data(block), self._mark(block)
        size = self._rows(block) * self._row_bytes
        if not all(path.exists() for path in (data, mark, self._lengths(block))):
            return False
        same = self.marks.is_of(block, mark)
        return same and data.stat().st_size == size and self.failed.get(block) != self._written(block)

    def _has_failed(self, block: int) -> bool:
        """Whether some audio of a whole block could not be read: the next run tries again."""
        return self._is_whole(block) and bool((np.load(self._lengths(block)) < 0).any())

    def _written(self, block: int) -> int:
        """When a whole block was, in nanoseconds."""
        return self._mark(block).stat().st_mtime_ns

    @property
    def missing_bytes(self) -> int:
        """Disk that they will take."""
        return sum(self._rows(block) for block in self.missing) * self._row_bytes

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def _members(self, block: int) -> range:
        return range(block * _BLOCK, min((block + 1) * _BLOCK, len(self.cuts)))

    def _rows(self, block: int) -> int:
        members = self._members(block)
        return int(self.room[members.start : members.stop].sum())

    def _data(self, block: int) -> Path:
        return self.folder / f"{block:05d}.features"

    def _lengths(self, block: int) -> Path:
        return self.folder / f"{block:05d}.frames.npy"

    def _mark(self, block: int) -> Path:
        return self.folder / f"{block:05d}.audio"  # written last: the block is whole

    def __contains__(self, name: str) -> bool:
        return name in self.numbers

    def read(self, name: str) -> Tensor | None:
        """(F, D) or (F, L + 1, D) float32 of an utterance; None if its audio could not be read."""
        number = self.numbers[name]
        block, place = divmod(number, _BLOCK)
        if block not in self._maps:
            rows = self._rows(block)
            data = np.memmap(self._data(block), dtype=self.dtype, mode="r", shape=(rows, *self.shape))
            members = self._members(block)
            starts = np.concatenate([[0], np.cumsum(self.room[members.start : members.stop])])
            self._maps[block] = (data, np.load(self._lengths(block)), starts)
        data, frames, starts = self._maps[block]
        if frames[place] < 0:
            return None
        start = int(starts[place])
        return torch.from_numpy(np.array(data[start : start + int(frames[place])], dtype=np.float32))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}  # another process maps the files itself

    def fill(
        self, encoder: HubertEncoder, selection: Selection, *, device: torch.device, workers: int = 4
    ) -> None:
        """Extract what is missing, together with all other processes that do so at the moment.

        Args:
            encoder: the frozen model.
            selection: which of its hidden states.
            device: to compute on.
            workers: threads that read audio.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sign()
        encoder = encoder.eval().to(device)
        with tqdm(
            total=len(self.blocks), desc=f"cache: {self.folder.name}", unit="block", disable=None
        ) as bar:
            while missing := self.missing:
                bar.update(len(self.blocks) - len(missing) - bar.n)
                if not any(
                    [self._try_block(block, encoder, selection, device, workers) for block in missing]
                ):
                    time.sleep(0.2)  # the others are at the last ones
            bar.update(len(self.blocks) - bar.n)

    def _sign(self) -> None:
        with FileLock(self.folder / ".about.lock"):
            self._check()
            about = self.folder / "about.json"
            if not about.exists():
                write_whole(about, lambda p: p.write_text(json.dumps(asdict(self.identity), indent=2) + "\n"))

    def _try_block(
        self, block: int, encoder: HubertEncoder, selection: Selection, device: torch.device, workers: int
    ) -> bool:
        """Extract a block unless somebody else does."""
        try:
            with FileLock(self.folder / f".{block:05d}.lock", timeout=0):
                if not self._is_whole(block):
                    self._extract(block, encoder, selection, device, workers)
                return True
        except Timeout:
            return False
        except OSError as error:
            raise UserError(
                f"{self.folder}: the cache cannot be written ({error.strerror or error}): make room and "
                "start again, what is there is kept"
            ) from None

    @torch.inference_mode()
    def _extract(
        self, block: int, encoder: HubertEncoder, selection: Selection, device: torch.device, workers: int
    ) -> None:
        members, mark = self._members(block), self.marks.mark(block)  # of what is read next, or was before
        starts = np.concatenate([[0], np.cumsum(self.room[members.start : members.stop])])
        frames = np.full(len(members), -1, dtype=np.int32)

        def fill(path: Path) -> None:
            # Written, not mapped: a full disk is an error then, and not the end of the process.
            with path.open("wb") as file:
                for numbers, waves, lengths in self._waves(members, workers):
                    waves = at_level(waves, self.identity.gain_db)
                    out = encoder(waves.to(device), lengths.to(device))
                    kept = selection.select(out).float().cpu().numpy()
                    for row, number, count in zip(kept, numbers, out.lengths.tolist(), strict=True):
                        place = number - members.start
                        frames[place] = count = min(count, int(self.room[number]))
                        file.seek(int(starts[place]) * self._row_bytes)
                        file.write(row[:count].clip(-self.largest, self.largest).astype(self.dtype).tobytes())
                file.truncate(int(starts[-1]) * self._row_bytes)

        write_whole(self._data(block), fill)
        write_whole(self._lengths(block), lambda path: _save(path, frames))
        write_whole(self._mark(block), lambda path: path.write_text(mark))

    def _waves(self, members: range, workers: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Utterances of similar length together: their numbers, (B, T) waveforms, (B,) lengths."""
        batches: list[list[int]] = []
        for number in sorted(members, key=lambda number: self.room[number], reverse=True):
            longest = self.room[batches[-1][0]] * self.hop if batches else 0
            if not batches or (len(batches[-1]) + 1) * longest > _BATCH_SAMPLES:
                batches.append([])
            batches[-1].append(number)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for batch, waves in zip(batches, pool.map(self._read_batch, batches), strict=True):
                readable = [(n, w) for n, w in zip(batch, waves, strict=True) if w is not None]
                if readable:
                    yield [n for n, _ in readable], *pad([w for _, w in readable])

    def _read_batch(self, numbers: list[int]) -> list[Tensor | None]:
        return [self._read(self.cuts[number]) for number in numbers]

    @staticmethod
    def _read(cut: Cut) -> Tensor | None:
        try:
            return read_audio(cut, 0, samples_at_16k(cut))
        except DataError as error:
            logger.warning("no features of %s", error)
            return None


def at_level(waveforms: Tensor, gain_db: float) -> Tensor:
    """Waveforms louder by `gain_db`, as sox's `gain` makes them (without its clipping at full scale)."""
    return waveforms * 10 ** (gain_db / 20) if gain_db else waveforms


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file that appears under its name when it is complete and on the disk."""
    with atomic(path, sole=True) as partial:
        write(partial)


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def fill_all(
    caches: Sequence[FeatureCache],
    encoder: HubertEncoder,
    selection: Selection,
    *,
    devices: Sequence[torch.device],
    workers: int = 4,
) -> None:
    """Fill caches of one model; says first how much disk they take, and refuses if there is too little.

    Args:
        caches: of one training.
        encoder: the frozen model.
        selection: which of its hidden states.
        devices: this process computes on the first; the others get processes of their own.
        workers: threads that read audio, per process.

    Raises:
        UserError: too little disk.
    """
    todo = [cache for cache in caches if cache.missing]
    if not todo:
        return
    for cache in todo:
        if cache.outdated:
            logger.warning(
                "%s: %d of %d blocks are made again, as their audio has changed or could not be read",
                *(cache.folder, len(cache.outdated), len(cache.blocks)),
            )
    check_room(todo)
    helpers = None
    if len(devices) > 1:
        weights = {name: value.cpu() for name, value in encoder.state_dict().items()}
        helpers = torch.multiprocessing.spawn(
            _help,
            args=(todo, encoder.config, weights, selection, list(devices[1:]), workers),
            nprocs=len(devices) - 1,
            join=False,
        )
    for cache in todo:
        cache.fill(encoder, selection, device=devices[0], workers=workers)
    while helpers is not None and not helpers.join():
        pass


def _help(
    number: int,
    caches: Sequence[FeatureCache],
    config: Any,
    weights: dict[str, Tensor],
    selection: Selection,
    devices: Sequence[torch.device],
    workers: int,
) -> None:
    """Another process of `fill_all`, on another device."""
    encoder = HubertEncoder(config)
    encoder.load_state_dict(weights)
    for cache in caches:
        cache.fill(encoder, selection, device=devices[number], workers=workers)


def check_room(caches: Sequence[FeatureCache]) -> None:
    """Say how large the caches will be.

    Raises:
        UserError: if the disk is too small.
    """
    folder = caches[0].folder
    while not folder.exists():
        folder = folder.parent
    needed, free = sum(cache.missing_bytes for cache in caches), shutil.disk_usage(folder).free
    tqdm.write(f"cache: {in_gb(needed)} of features, {in_gb(free)} free in {folder}", file=sys.stderr)
    if needed + _SPARE > free:
        raise UserError(
            f"the feature cache needs {in_gb(needed)} and {in_gb(_SPARE)} to spare, {folder} has "
            f"{in_gb(free)}: make room, name another cache_folder, or set cache=float16 or cache=off"
        )


def in_gb(n_bytes: int) -> str:
    """A size for people."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
