"""Filling feature caches: utterances of similar length go through the frozen model together.

Processes, on one machine or several, make blocks that nobody else is making, so that they share the work
without talking to each other.

Shapes: B utterances, T samples at 16 kHz, F frames, L + 1 hidden states, D features.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from filelock import Timeout
from lhotse.cut import Cut
from torch import Tensor
from tqdm import tqdm

from distill.checkpoints.weights import fill_encoder
from distill.data.audio import read_audio, samples_at_16k
from distill.data.blocks import BlockRunner, Tick
from distill.downstream.cache import FeatureCache
from distill.downstream.features import Selection
from distill.encoder import Encoder
from distill.errors import DataError, UserError
from distill.waveforms import SAMPLE_RATE, pad, with_gain

logger = logging.getLogger(__name__)

_BATCH_SAMPLES = 60 * SAMPLE_RATE  # audio that is encoded together, padding included
_SPARE_BYTES = 1 << 30  # of disk that are left alone


def fill_all(
    caches: Sequence[FeatureCache],
    encoder: Encoder,
    selection: Selection,
    *,
    devices: Sequence[torch.device],
    workers: int = 4,
) -> None:
    """Fill caches of one model, together with all other runs that are doing so.

    Says first how much disk they take.

    Args:
        caches: of one training.
        encoder: the frozen model.
        selection: which of its hidden states.
        devices: to compute on; of several, each gets a process of its own.
        workers: threads that read audio, per process.

    Raises:
        UserError: for too little disk, or a folder of other features.
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
    make = Extraction(todo, encoder, selection, workers)
    with BlockRunner(make, jobs=len(devices), devices=devices) as runner:
        for number, cache in enumerate(todo):
            cache.sign()
            runner.run(
                number,
                lambda cache=cache: cache.missing,
                lambda block, cache=cache: len(cache.blocks[block]),
                description=f"cache: {cache.folder.name}",
            )


class Extraction:
    """Makes blocks of some caches, unless another run is making them.

    Args:
        caches: the kind of a block is the number of its cache.
        encoder: the frozen model; every process makes its own copy.
        selection: which of its hidden states.
        workers: threads that read audio.
    """

    device = "cpu"

    def __init__(self, caches: Sequence[FeatureCache], encoder: Encoder, selection: Selection, workers: int):
        self.caches, self.selection, self.workers = caches, selection, workers
        # Config and weights, since parametrised modules cannot be pickled.
        self.config = encoder.config
        self.weights = {name: value.detach().cpu() for name, value in encoder.state_dict().items()}
        self.encoder: Encoder | None = None

    def __call__(self, kind: int, block: int, tick: Tick) -> bool:
        """Make a block of the cache with this number."""
        cache = self.caches[kind]
        if self.encoder is None:
            self.encoder = fill_encoder(self.config, self.weights, "the model").eval().to(self.device)
        try:
            with cache.lock(block):
                if not cache.is_complete(block):
                    cache.write(block, self._features(cache, block, tick))
                return True
        except Timeout:
            return False

    @torch.inference_mode()
    def _features(self, cache: FeatureCache, block: int, tick: Tick) -> Iterator[tuple[int, np.ndarray]]:
        """Number and features, (F, D) or (F, L + 1, D) float32, of a block's readable utterances."""
        assert self.encoder is not None
        batches = _batches(cache, block, self.config.hop)
        with ThreadPoolExecutor(max(1, self.workers)) as pool:
            read = pool.map(lambda batch: [_read(cache.cuts[number]) for number in batch], batches)
            for batch, waves in zip(batches, read, strict=True):
                readable = [(n, wave) for n, wave in zip(batch, waves, strict=True) if wave is not None]
                if readable:
                    padded, lengths = pad([wave for _, wave in readable])
                    padded = with_gain(padded, cache.identity.gain_db)
                    out = self.encoder(padded.to(self.device), lengths.to(self.device))
                    selected = self.selection.select(out).float().cpu().numpy()
                    frames = out.lengths.tolist()
                    for (number, _), rows, count in zip(readable, selected, frames, strict=True):
                        yield number, rows[:count]
                tick(len(batch))


def _batches(cache: FeatureCache, block: int, hop: int) -> list[list[int]]:
    """Numbers of a block's utterances, those of similar length together, the longest first."""
    batches: list[list[int]] = []
    for number in sorted(cache.blocks[block], key=lambda number: cache.max_frames[number], reverse=True):
        longest = cache.max_frames[batches[-1][0]] * hop if batches else 0
        if not batches or (len(batches[-1]) + 1) * longest > _BATCH_SAMPLES:
            batches.append([])
        batches[-1].append(number)
    return batches


def _read(cut: Cut) -> Tensor | None:
    """(T,) samples, or None with a warning."""
    try:
        return read_audio(cut, 0, samples_at_16k(cut))
    except DataError as error:
        logger.warning("no features of %s", error)
        return None


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
    if needed + _SPARE_BYTES > free:
        raise UserError(
            f"the feature cache needs {in_gb(needed)} and {in_gb(_SPARE_BYTES)} to spare, {folder} has "
            f"{in_gb(free)}: make room, name another cache_folder, or set cache=float16 or cache=off"
        )


def in_gb(n_bytes: int) -> str:
    """A size for people."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
