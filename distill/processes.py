"""Which of several processes this is, also before they are connected."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from distill.errors import UsageError

if TYPE_CHECKING:
    import pytorch_lightning as pl


_RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")  # of torchrun, srun, mpirun


def is_first_process() -> bool:
    """Whether this process is alone, or the first of several; known before they are connected.

    What torchrun says counts more than SLURM, which may have started several runs of torchrun, or one whose
    machines have other numbers. `RANK` that somebody else has set says nothing of Lightning's children.
    """
    return _rank() == 0


def _rank() -> int:
    """0 for the first process; of the others, what their launcher says."""
    said = [int(os.environ[name]) for name in _RANKS if name in os.environ]
    torchrun = {"TORCHELASTIC_RUN_ID", "RANK"} <= os.environ.keys()
    return int(os.environ["RANK"]) if torchrun else next(filter(None, said), 0)


def local_rank() -> int | None:
    """Number of this process on its machine, if a launcher has started it as one of several."""
    said = os.environ.get("LOCAL_RANK")  # of torchrun and Lightning
    if said is None and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # of srun, and not of a shell
        said = os.environ.get("SLURM_LOCALID")
    return None if said is None else int(said)


def process_name() -> str:
    """What distinguishes this process from those that train with it; "" for the first or only one.

    Its rank once they are connected, before that what its launcher says: torchrun, srun or Lightning.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return f"rank {rank}" if (rank := distributed.get_rank()) else ""
    names = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")  # the last two are set by Lightning
    return " ".join(
        f"{name} {os.environ[name]}" for name in names if os.environ.get(name, "0") not in ("", "0")
    )


def message_prefix() -> str:
    """Which process a message is from, and on which machine; "" if it is the first."""
    if is_first_process():
        return ""
    return f"process {_rank()} on {socket.gethostname()}: "


class OtherWorld(UsageError):
    """More or fewer processes were started than the recipe asks for."""


def check_world(size: int) -> None:
    """Refuse to train in processes that a launcher has started without the recipe saying so.

    Each of them would train by itself, all in one folder.

    Args:
        size: processes that the trainer section asks for, on all machines.

    Raises:
        OtherWorld: another number was started.
    """
    started = next((int(os.environ[name]) for name in _SIZES if name in os.environ), size)
    if started > 1 and started != size:  # 1: a shell, from which Lightning starts them
        raise OtherWorld(
            f"{started} processes were started, but trainer.devices x trainer.num_nodes is {size}: set them "
            f"to what torchrun or srun starts, or start {size}"
        )


def largest_of_all(trainer: pl.Trainer, value: int) -> int:
    """The largest value of all processes, for what one of them met and all must act on together."""
    if trainer.world_size == 1:
        return value
    import torch  # not at the top: the command line needs this module before torch

    agreed = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MAX)
    return int(agreed)
