"""What a long run shows and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.profilers import PassThroughProfiler
from tqdm import tqdm

from distill.batch import Batch
from distill.errors import UserError
from distill.hubert import SAMPLE_RATE
from distill.parcels import BatchLoader


class Interrupted(UserError):
    """The run was told to stop; everything is saved, or `problem` says why not."""

    joint = True

    def __init__(self, signum: int, checkpoint: Path, problem: str = "", done: str = ""):
        saved = f"but {problem}" if problem else f"saved {checkpoint}"
        super().__init__(
            f"stopped by {signal.Signals(signum).name}; {saved}: "
            + (done or f"go on with --resume {checkpoint.parents[1]}")
        )
        self.exit_code = 128 + signum  # 130 for Ctrl-C, 143 for SIGTERM
        if signum == signal.SIGUSR1:  # a scheduler's warning, as agreed
            self.exit_code = 1 if problem else 0


class NotStarted(UserError):
    """The run was told to stop before it had begun."""

    joint = True

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name} before the first step: nothing to save")
        self.exit_code = 128 + signum


# Steps that are not timed (caches fill, kernels are chosen), steps that are, and the fewest to say it for.
UNTIMED_STEPS, TIMED_STEPS, LONG_RUN_STEPS = 2, 10, 50


class StepProgress(Callback):
    """One bar over all steps: loss, seconds of audio per second, time left. Validation losses as lines.

    Long runs say early on how long they will take.
    """

    def __init__(self, name: str):
        self.name = name
        self.bar: Any = None
        self.audio_s = 0.0
        self.timed_from: float | None = None
        self.projected = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.started, self.audio_s = time.monotonic(), 0.0
        self.first_step, self.timed_from = trainer.global_step, None
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=self.name,
            unit="step",
            dynamic_ncols=True,
            disable=None if trainer.is_global_zero else True,  # None: no bar where stderr is not a terminal
        )

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.audio_s += float(batch.lengths.sum()) / SAMPLE_RATE * trainer.world_size
        speed = self.audio_s / (time.monotonic() - self.started)
        if trainer.global_step % log_interval(trainer) == 0:
            pl_module.log("audio_s_per_s", speed)
        self._project(trainer)
        if not self.bar.disable:
            loss = trainer.callback_metrics.get("train/loss")
            shown = {} if loss is None else {"loss": f"{float(loss):.3f}"}
            self.bar.set_postfix(shown | {"audio": f"{speed:.0f}x"}, refresh=False)
        self.bar.update()

    def _project(self, trainer: pl.Trainer) -> None:
        """Once, when enough steps have been timed: how long all that are left will take."""
        done, steps = trainer.global_step - self.first_step, trainer.max_steps - self.first_step
        if steps < LONG_RUN_STEPS or not trainer.is_global_zero:
            return
        if self.timed_from is None and done >= UNTIMED_STEPS:
            self.timed_from = time.monotonic()
        elif done == UNTIMED_STEPS + TIMED_STEPS and not self.projected:
            assert self.timed_from is not None
            step_s = (time.monotonic() - self.timed_from) / TIMED_STEPS
            about = f"about {in_words(step_s * steps)} for {steps} steps ({step_s:.2f} s each)"
            self.bar.write(f"{self.name}: {about}", file=sys.stderr)
            self.projected = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if trainer.is_global_zero and self.bar is not None:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            shown = ", ".join(f"{name.removeprefix('val/')} {value:.4f}" for name, value in values.items())
            self.bar.write(f"{self.name} step {trainer.global_step}: dev {shown}", file=sys.stderr)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.bar.close()

    def on_exception(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if self.bar is not None:
            self.bar.close()


class WaitClock(PassThroughProfiler):
    """Adds up how long the training loop waits for the data loader."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s = 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:  # noqa: D102
        if action_name.endswith("train_dataloader_next"):
            self._since = time.monotonic()

    def stop(self, action_name: str) -> None:  # noqa: D102
        if action_name.endswith("train_dataloader_next"):
            self.waited_s += time.monotonic() - self._since


class Gauges(Callback):
    """With every log line: gradient norms by part of the model, share of time waiting for data, memory.

    The data-wait share is that of the first process since the last line; none if another profiler than
    `WaitClock` is used. Gradient norms are those before clipping.
    """

    def __init__(self) -> None:
        self.since = self.waited_s = 0.0
        self.logged = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._reset(trainer)

    def on_before_optimizer_step(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        if (trainer.global_step + 1) % log_interval(trainer):
            return
        norms = gradient_norms(pl_module)
        pl_module.log_dict({f"gradient_norm_{part}": norm for part, norm in norms.items()})
        if pl_module.automatic_optimization:  # other modules log these themselves
            pl_module.log("gradient_norm", torch.stack(list(norms.values())).norm())
            pl_module.log("lr", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step % log_interval(trainer) or step == self.logged:
            return
        if isinstance(clock := profiler_of(trainer), WaitClock):
            share = (clock.waited_s - self.waited_s) / max(time.monotonic() - self.since, 1e-9)
            pl_module.log("data_wait_share", share)
        pl_module.log("memory_gib", memory_gib(pl_module.device))
        self._reset(trainer)

    def _reset(self, trainer: pl.Trainer) -> None:
        """A log line is written: measure from here."""
        self.logged = trainer.global_step
        self.since = time.monotonic()
        clock = profiler_of(trainer)
        self.waited_s = clock.waited_s if isinstance(clock, WaitClock) else 0.0


def log_interval(trainer: pl.Trainer) -> int:
    """Steps between two log lines."""
    return trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]


def profiler_of(trainer: pl.Trainer) -> Any:
    """Set by Lightning's connectors, out of sight of type checkers."""
    return trainer.profiler  # pyright: ignore[reportAttributeAccessIssue]


def gradient_norms(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Norms of the gradients of the CNN, of the rest of the encoder ("transformer") and of the heads."""
    parts: dict[str, list[torch.Tensor]] = {"cnn": [], "transformer": [], "heads": []}
    for name, parameter in module.named_parameters():
        if parameter.grad is None or name.startswith("classifier."):  # which has an optimiser of its own
            continue
        scope = name.removeprefix("student.")
        part = "cnn" if scope.startswith("encoder.cnn.") else "transformer"
        parts[part if scope.startswith("encoder.") else "heads"].append(parameter.grad)
    return {part: torch.nn.utils.get_total_norm(grads) for part, grads in parts.items() if grads}


def memory_gib(device: torch.device) -> float:
    """The most so far: allocated on a GPU, otherwise the resident set of this process, not its workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not on every platform that has a GPU

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


class GracefulStop(Callback):
    """Ctrl-C and SIGTERM finish the step, save `last.ckpt`, then stop; a second Ctrl-C stops at once.

    So does SIGUSR1, which SLURM sends when asked to (`--signal=USR1@120`); the job is then put back into its
    queue. A process that trains alone and waits for data has no step to finish: it saves at once. A
    validation is broken off and done again when the run goes on, except the one behind the last step, which
    is finished.
    """

    def __init__(self) -> None:
        self.received = 0
        self.speaks = False
        self.previous: dict[int, Any] = {}
        self.trainer: pl.Trainer | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:  # noqa: D102
        self.speaks = trainer.is_global_zero
        connector: Any = trainer._signal_connector  # would ignore SIGTERM until the first step is done
        connector.register_signal_handlers = lambda: None
        for signum in (signal.SIGTERM, signal.SIGUSR1):
            self._catch(signum)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.trainer = trainer
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            self._catch(signum)

    def _catch(self, signum: int) -> None:
        self.previous.setdefault(signum, signal.getsignal(signum))
        signal.signal(signum, self._note)

    def _note(self, signum: int, _: Any) -> None:
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if self.trainer is None and signum == signal.SIGTERM:
            raise NotStarted(signum)
        idle = self._is_idle()
        if self.speaks and not self.received:  # not by print, which may be what the signal interrupted
            name, when = signal.Signals(signum).name, "" if idle else " after this step"
            os.write(2, f"distill: {name}: saving{when}, then stopping\n".encode())
        self.received = signum
        if idle:
            assert self.trainer is not None
            self._stop(self.trainer, signum)

    def _is_idle(self) -> bool:
        """Whether no step is going on, as far as all processes are concerned: this one waits for data."""
        if self.received or self.trainer is None or self.trainer.world_size > 1:
            return False
        ends = self.trainer.validating and self.trainer.global_step >= self.trainer.max_steps
        return BatchLoader.waiting and not ends

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        received = largest_of_all(trainer, self.received)
        if received and not validation_follows(trainer):  # which would be skipped when the run goes on
            self._stop(trainer, received)

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        received = largest_of_all(trainer, self.received)
        if received and trainer.global_step < trainer.max_steps:  # no resumed run does the last one again
            self._stop(trainer, received)

    def _stop(self, trainer: pl.Trainer, received: int) -> None:
        path = save_last(trainer)
        problem = getattr(trainer.strategy.checkpoint_io, "problem", "")
        requeued = requeue() if received == signal.SIGUSR1 and trainer.is_global_zero else ""
        raise Interrupted(received, path, problem, requeued)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        save_last(trainer)
        self._restore()

    def on_exception(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}


def requeue() -> str:
    """Put this SLURM job back into its queue; returns what was done, "" outside of SLURM."""
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


def in_words(seconds: float) -> str:
    """A duration: "3 h 20 min", "12 min", "45 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def largest_of_all(trainer: pl.Trainer, value: int) -> int:
    """The largest of what all processes have: what one of them met, all must act on together."""
    if trainer.world_size == 1:
        return value
    agreed = torch.tensor(value, device=trainer.strategy.root_device)
    torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MAX)
    return int(agreed)


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether a validation is due behind the batch that has just been trained on."""
    every = trainer.val_check_batch
    return bool(every and trainer.enable_validation and (trainer.fit_loop.total_batch_idx + 1) % every == 0)


def last_checkpoint(trainer: pl.Trainer) -> Path:
    """Where `last.ckpt` is: beside the best checkpoint."""
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint) and callback.dirpath
    return Path(callback.dirpath) / "last.ckpt"


def save_last(trainer: pl.Trainer) -> Path:
    """Write `last.ckpt`. In the middle of a validation: so that a resumed run begins with all of it."""
    if trainer.validating:
        # As if its first batch were being evaluated: what Lightning knows as a validation to go back to.
        progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        progress.total.ready = progress.total.started = progress.total.completed + 1
        progress.total.processed = progress.total.completed
        progress.current.reset()
    path = last_checkpoint(trainer)
    trainer.save_checkpoint(path)
    return path
