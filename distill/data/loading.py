"""Loaders of batches, and the processes that read them."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import signal
from contextlib import suppress
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from distill.data.dataset import SpeechDataset
from distill.data.parcels import BatchLoader, allow_open_files, send
from distill.data.sampler import EpochSampler
from distill.errors import DataError
from distill.waveforms import SAMPLE_RATE

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MOST_KEPT = 128 * 2**20  # bytes; a quarter is the most that glibc takes for the other


def train_loader(
    dataset: SpeechDataset,
    *,
    batch_size: int,
    buckets: int,
    workers: int,
    batch_seconds: float | None = None,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader:
    """Shuffled batches of utterances of similar length; all processes get equally many.

    Args:
        dataset: the training speech.
        batch_size: utterances of the global batch.
        buckets: batches whose utterances are sorted by duration together.
        workers: processes that read.
        batch_seconds: seconds of audio in the global batch, instead of `batch_size`.
        seed: of the order.
        rank: of this process.
        world_size: number of processes.

    Raises:
        DataError: if the batch cannot be divided by the number of processes.
    """
    if batch_seconds is None and batch_size % world_size:
        raise DataError(
            f"data.batch_size {batch_size} (global) is not a multiple of the {world_size} processes: "
            f"try data.batch_size={world_size * max(1, round(batch_size / world_size))}"
        )
    sampler = EpochSampler(
        dataset.cuts,
        batch_size=batch_size,
        batch_seconds=batch_seconds,
        buckets=buckets,
        max_seconds=dataset.max_samples / SAMPLE_RATE,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    dataset.batches_per_epoch = sampler.n_batches_alone()
    return batch_loader(sampler, dataset, workers)


def dev_loader(
    dataset: SpeechDataset, *, batch_size: int, workers: int, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """The same batches every time, in the order of the manifest."""
    size = max(batch_size, world_size)
    sampler = EpochSampler(
        dataset.cuts, batch_size=size, buckets=1, shuffle=False, rank=rank, world_size=world_size
    )
    return batch_loader(sampler, dataset, workers)


def batch_loader(sampler: Any, dataset: Dataset, workers: int) -> DataLoader:
    """A loader whose sampler yields whole batches: `dataset[...]` reads one."""
    if workers:
        allow_open_files()
        atexit.unregister(_end_workers)  # only once, and before multiprocessing waits for its children
        atexit.register(_end_workers)
    return BatchLoader(
        dataset,
        sampler=sampler,
        batch_size=None,
        num_workers=workers,
        collate_fn=send,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker if workers else None,
    )


def _start_worker(_: int) -> None:
    """One thread each; signals, which may reach the whole process group, are left to the main process."""
    torch.set_num_threads(1)
    keep_memory()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(signum, signal.SIG_IGN)


def keep_memory() -> None:
    """Let malloc keep what is freed, for the next batch: new pages cost as much as filling them.

    Without effect where the C library is not glibc.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MOST_KEPT // 4)  # larger blocks are always returned
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT)


def _end_workers() -> None:
    """End workers that still run after an error: they ignore the signal that multiprocessing sends them."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler complains about killed workers
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
