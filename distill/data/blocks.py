"""Long work over many utterances in numbered blocks, of which each appears complete or not at all.

An interrupted run continues with the blocks that are missing. What a block holds, and whether it is there, is
up to the caller; here are the loop over the missing ones and the processes that share them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.multiprocessing
from tqdm import tqdm

from distill.atomic import read_json
from distill.errors import DataError, UserError

CPU_ONLY = (torch.device("cpu"),)

MOST_JOBS = 1024
"""Processes or threads: more than any machine has cores."""

Tick = Callable[[int], Any]
"""Told how many utterances were done since the last call."""


class BlockMaker(Protocol):
    """Makes blocks. Other processes get a copy: it loads what cannot be pickled when first called."""

    device: str

    def __call__(self, kind: Any, block: int, tick: Tick) -> bool:
        """Make a block; False if another run, which shares the folder, is making it."""
        ...


def block_ranges(n_utterances: int, size: int) -> list[range]:
    """Numbers of the utterances of each block, `size` in all but the last."""
    return [range(start, min(start + size, n_utterances)) for start in range(0, n_utterances, size)]


def noted_settings(path: Path) -> dict[str, Any] | None:
    """What a JSON file says some blocks were made of; None if there is none, {} if it cannot be read."""
    try:
        return read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        return {}


class BlockRunner(AbstractContextManager["BlockRunner"]):
    """Makes blocks in this process, or in several while the context lasts.

    The processes are spawned, since the state of OpenMP and CUDA does not survive a fork. Each has one thread
    and ends with this one, however that ends: it waits at the other end of a pipe.

    Args:
        make: called here or, as a copy, in each process.
        jobs: processes; 1: this one. On GPUs at most one for each.
        devices: the processes take them in turn; this one takes the first.

    Raises:
        ValueError: if jobs is not 1 to `MOST_JOBS`.
    """

    def __init__(self, make: BlockMaker, *, jobs: int = 1, devices: Sequence[torch.device] = CPU_ONLY):
        if not 1 <= jobs <= MOST_JOBS:
            raise ValueError(f"jobs must be 1 to {MOST_JOBS}, not {jobs}")
        names = list(dict.fromkeys(map(str, devices)))
        jobs = jobs if names[0] == "cpu" else min(jobs, len(names))
        self._make = make
        make.device = names[0]
        self._pool: ProcessPoolExecutor | None = None
        if jobs > 1:
            context = torch.multiprocessing.get_context("spawn")
            alive, self._alive = context.Pipe(duplex=False)
            started, self._done = context.Value("i", 0), context.Value("q", 0)
            arguments = (make, names, started, self._done, alive)
            self._pool = ProcessPoolExecutor(jobs, context, _start_worker, arguments)

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are doing: unfinished blocks are not kept."""
        if self._pool is not None:
            self._alive.close()
            self._pool.shutdown(cancel_futures=True)

    def run(
        self,
        kind: Any,
        missing: Callable[[], Sequence[int]],
        n_utterances: Callable[[int], int],
        *,
        description: str,
        progress: bool = True,
    ) -> None:
        """Make the missing blocks, and wait for those that another run is making.

        Args:
            kind: passed to the maker.
            missing: says which blocks do not exist yet.
            n_utterances: of a block, for the progress bar.
            description: of the progress bar.
            progress: show it on stderr, if that is a terminal.

        Raises:
            UserError: what a block raised, or for a full disk and the like.
            DataError: if a process was killed.
        """
        total = sum(map(n_utterances, missing()))
        with tqdm(total=total, desc=description, unit="utt", disable=None if progress else True) as bar:
            while blocks := missing():
                bar.update(total - sum(map(n_utterances, blocks)) - bar.n)  # with those of other runs
                several = self._pool is not None and len(blocks) > 1
                made = self._in_processes(kind, blocks, bar) if several else self._here(kind, blocks, bar)
                if not any(list(made)):
                    time.sleep(0.2)

    def _here(self, kind: Any, blocks: Sequence[int], bar: tqdm) -> Iterator[bool]:
        for block in blocks:
            yield _make_block(self._make, kind, block, bar.update)

    def _in_processes(self, kind: Any, blocks: Sequence[int], bar: tqdm) -> Iterator[bool]:
        assert self._pool is not None
        done = self._done.get_obj()  # without its lock, which a process that was killed may hold
        other = done.value - bar.n
        try:
            pending: set[Future[bool]] = {self._pool.submit(_make_in_worker, kind, block) for block in blocks}
            while pending:
                finished, pending = wait(pending, timeout=0.5, return_when=FIRST_EXCEPTION)
                bar.update(done.value - other - bar.n)
                for future in finished:
                    yield future.result()
        except BrokenProcessPool:
            raise DataError(
                "a worker process ended (killed for its memory, if no error is above): run again, with fewer "
                "processes; finished blocks are kept"
            ) from None


def _make_block(make: BlockMaker, kind: Any, block: int, tick: Tick) -> bool:
    try:
        return make(kind, block, tick)
    except OSError as error:
        name = error.filename or f"block {block}"
        raise UserError(
            f"{name}: {error.strerror or error}; fix this and run again, finished blocks are kept"
        ) from None


_worker: dict[str, Any] = {}
"""What a worker process makes its blocks with."""


def _start_worker(make: BlockMaker, devices: list[str], started: Any, done: Any, alive: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends this one
    threading.Thread(target=_end_with_main_process, args=(alive,), daemon=True).start()
    torch.set_num_threads(1)
    with started.get_lock():
        make.device = devices[started.value % len(devices)]
        started.value += 1
    _worker.update(make=make, done=done)


def _end_with_main_process(alive: Connection) -> None:
    """The pipe ends when the main process closes it, or is killed: an executor's workers would stay then."""
    alive.poll(None)
    os._exit(1)


def _make_in_worker(kind: Any, block: int) -> bool:
    def tick(n_utterances: int) -> None:
        with _worker["done"].get_lock():
            _worker["done"].value += n_utterances

    return _make_block(_worker["make"], kind, block, tick)
