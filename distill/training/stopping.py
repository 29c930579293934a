"""Ctrl-C, SIGTERM and SLURM's signals: the step is finished, `last.ckpt` is saved, the run stops."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from typing_extensions import override

from distill.data.parcels import BatchLoader
from distill.errors import UserError
from distill.processes import largest_of_all
from distill.training.run_folder import LAST, RunFolder


class Interrupted(UserError):
    """The run was told to stop; everything is saved, or `problem` says why not."""

    joint = True

    def __init__(self, signum: int, folder: RunFolder, problem: str = "", requeued: str = ""):
        saved = f"but {problem}" if problem else f"saved {folder.last}"
        then = requeued or folder.how_to_continue()
        super().__init__(f"stopped by {signal.Signals(signum).name}; {saved}: {then}")
        self.problem = problem
        self.exit_code = 128 + signum  # 130 for Ctrl-C, 143 for SIGTERM
        if signum == signal.SIGUSR1:  # a scheduler's warning, as agreed
            self.exit_code = 1 if problem else 0


class NotStarted(UserError):
    """The run was told to stop before it had begun; each process says so, they may not be connected yet."""

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name} before the first step: nothing to save")
        self.exit_code = 128 + signum


class GracefulStop(Callback):
    """Ctrl-C and SIGTERM finish the step, save `last.ckpt`, then stop; a second Ctrl-C stops at once.

    So does SIGUSR1, which SLURM sends when asked to (`--signal=USR1@120`); the job is then put back into its
    queue. A process that trains alone and waits for data has no step to finish: it saves at once. A
    validation is abandoned and done again when the run is resumed, except the one after the last step, which
    is finished.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.alone = True
        """Whether it is the only run of its process: otherwise somebody else catches the signals, sets
        `received` and puts the job back."""
        self.received = 0
        self.is_first = False
        self.previous: dict[int, Any] = {}
        self.trainer: pl.Trainer | None = None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.is_first = trainer.is_global_zero
        connector: Any = trainer._signal_connector  # it would ignore SIGTERM until the first step is done
        connector.register_signal_handlers = lambda: None
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            self._catch(signum)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.trainer = trainer
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._catch(signum)

    def _catch(self, signum: int) -> None:
        if not self.alone:
            return
        self.previous.setdefault(signum, signal.getsignal(signum))
        signal.signal(signum, self._note)

    def _note(self, signum: int, _: Any) -> None:
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.trainer is None and signum == signal.SIGTERM:
            raise NotStarted(signum)
        idle = self._is_idle()
        if self.is_first and not self.received:  # not by print, which the signal may have interrupted
            name, when = signal.Signals(signum).name, "" if idle else " after this step"
            os.write(2, f"distill: {name}: saving{when}, then stopping\n".encode())
        self.received = signum
        if idle:
            assert self.trainer is not None
            self._stop(self.trainer, signum)

    def _is_idle(self) -> bool:
        """Whether this process trains alone and waits for data, so that there is no step to finish."""
        if self.received or self.trainer is None or self.trainer.world_size > 1:
            return False
        ends = self.trainer.validating and self.trainer.global_step >= self.trainer.max_steps
        return BatchLoader.waiting and not ends

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        received = largest_of_all(trainer, self.received)
        if received and not validation_follows(trainer):  # it would be skipped when the run is resumed
            self._stop(trainer, received)

    @override
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        received = largest_of_all(trainer, self.received)
        if received and trainer.global_step < trainer.max_steps:  # a resumed run does not repeat the last one
            self._stop(trainer, received)

    def _stop(self, trainer: pl.Trainer, received: int) -> None:
        save_last(trainer)
        problem = getattr(trainer.strategy.checkpoint_io, "problem", "")
        requeues = self.alone and received == signal.SIGUSR1 and trainer.is_global_zero
        requeued = requeue() if requeues else ""
        raise Interrupted(received, self.folder, problem, requeued)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        save_last(trainer)
        self._restore()

    @override
    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}


def requeue() -> str:
    """Put this SLURM job back into its queue; returns what was done, "" outside SLURM."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    if job is None:
        return ""
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        job += "_" + os.environ["SLURM_ARRAY_TASK_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"job {job} could not be requeued ({getattr(error, 'stderr', None) or error})"
    return f"job {job} is requeued"


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether a validation is due after the batch that has just been trained on."""
    every = trainer.val_check_batch
    return bool(every and trainer.enable_validation and (trainer.fit_loop.total_batch_idx + 1) % every == 0)


def last_checkpoint(trainer: pl.Trainer) -> Path:
    """Path of `last.ckpt`, next to the best checkpoint."""
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint) and callback.dirpath
    return Path(callback.dirpath) / LAST


def save_last(trainer: pl.Trainer) -> Path:
    """Write `last.ckpt`; during a validation, so that a resumed run starts with that validation."""
    if trainer.validating:
        # As if its first batch were being evaluated: Lightning then repeats the validation from its start.
        progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.total.ready = progress.total.started = progress.total.completed + 1
        progress.total.processed = progress.total.completed
        progress.current.reset()
    path = last_checkpoint(trainer)
    trainer.save_checkpoint(path)
    return path
