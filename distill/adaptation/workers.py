"""Processes that share the shards of a job out among themselves, or this process alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import torch
import torch.multiprocessing

from distill.errors import DataError, UserError

if TYPE_CHECKING:
    from distill.adaptation.labelling import ShardMaker

CPU_ONLY = (torch.device("cpu"),)


@contextmanager
def run_shards(
    make: ShardMaker, jobs: int, devices: Sequence[torch.device] = CPU_ONLY
) -> Iterator[Callable[..., None]]:
    """A function `run(kind, shards, tick)` that makes shards, in `jobs` processes while the block lasts.

    Args:
        make: called with (kind, shard, tick), here or in a process of one thread, which gets a copy.
        jobs: processes; 1: this one. On GPUs there is one for each at most.
        devices: the processes take turns with them; this one has the first.

    Raises:
        ValueError: if jobs is less than 1.
        UserError: what a shard raised, or DataError if a process was killed.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    names = list(dict.fromkeys(str(device) for device in devices))
    if names[0] != "cpu":
        jobs = min(jobs, len(names))
    make.device = names[0]
    pool = _Pool(make, jobs, names) if jobs > 1 else None

    def run(kind: str, shards: list[int], tick: Callable[[int], Any]) -> None:
        if pool is not None and len(shards) > 1:
            pool.run(kind, shards, tick)
        else:
            _run_here(make, kind, shards, tick)

    try:
        yield run
    finally:
        if pool is not None:
            pool.stop()


def _run_here(make: ShardMaker, kind: str, shards: list[int], tick: Callable[[int], Any]) -> None:
    threads = torch.get_num_threads()
    if make.job.layer is None:
        torch.set_num_threads(1)  # MFCC of one utterance are too little work to share: sharing costs more
    try:
        for index in shards:
            make(kind, index, tick)
    finally:
        torch.set_num_threads(threads)


class _Pool:
    """Processes, each behind a pipe: it sends None when it wants a shard, numbers of utterances meanwhile."""

    def __init__(self, make: ShardMaker, jobs: int, devices: list[str]):
        self.make, self.jobs, self.devices = make, jobs, devices
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []

    def run(self, kind: str, shards: list[int], tick: Callable[[int], Any]) -> None:
        if not self.processes:
            self._start(min(self.jobs, len(shards)))
        waiting = iter(shards)
        busy = []
        for pipe in self.pipes:
            if self._hand_out(pipe, kind, waiting):
                busy.append(pipe)
        while busy:
            for pipe in wait(busy):
                message = self._receive(pipe)  # pyright: ignore[reportArgumentType]
                if isinstance(message, int):
                    tick(message)
                elif isinstance(message, str):
                    raise DataError(message)
                elif not self._hand_out(pipe, kind, waiting):  # pyright: ignore[reportArgumentType]
                    busy.remove(pipe)

    def stop(self) -> None:
        """End the processes, whatever they are at: what is half done is not kept."""
        for process in self.processes:
            process.terminate()
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            process.join()
            pipe.close()

    def _start(self, jobs: int) -> None:
        # Not forked: OpenMP's and CUDA's state does not survive that.
        context = torch.multiprocessing.get_context("spawn")
        for number in range(jobs):
            ours, theirs = context.Pipe()
            device = self.devices[number % len(self.devices)]
            arguments = (type(self.make), self.make.job, device, theirs)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()  # so that a process that dies is the end of the pipe
            self.processes.append(process)
            self.pipes.append(ours)

    @staticmethod
    def _hand_out(pipe: Connection, kind: str, waiting: Iterator[int]) -> bool:
        index = next(waiting, None)
        if index is not None:
            pipe.send((kind, index))
        return index is not None

    @staticmethod
    def _receive(pipe: Connection) -> Any:
        try:
            return pipe.recv()
        except (EOFError, ConnectionResetError):
            raise DataError(
                "a process that made targets ended (killed for its memory, if no error is above): run again, "
                "with fewer jobs; finished shards stay"
            ) from None


def _serve(maker: type[ShardMaker], job: Any, device: str, pipe: Connection) -> None:
    """Make the shards that come through the pipe, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends this one
    torch.set_num_threads(1)
    make = maker(job, device)
    try:
        while True:
            kind, index = pipe.recv()
            make(kind, index, pipe.send)
            pipe.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the main process is gone
    except UserError as error:
        pipe.send(str(error))
