"""What a long run shows: progress, speed, gradient norms, memory."""

from __future__ import annotations

import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import PassThroughProfiler
from tqdm import tqdm
from typing_extensions import override

from distill.batch import Batch
from distill.training.flops import device_flops, dtype_of, step_flops
from distill.waveforms import SAMPLE_RATE

UNTIMED_STEPS, TIMED_STEPS = 2, 10
"""Steps that are not timed, since caches fill and kernels are chosen, and those that are after them."""
LONG_RUN_STEPS = 50
"""The fewest steps for which the total time is estimated."""


class StepProgress(Callback):
    """One bar over all steps: loss, seconds of audio per second, time left. Validation losses as lines.

    And the model FLOPs utilisation, `mfu`: the share of what a matrix product reaches on this device, in the
    trainer's precision, that the steps' arithmetic makes up (`flops`); of kinds of training that say what
    they compute. The loss shown is the last logged one: to read it at every step would wait for the device.

    Long runs estimate early how long they will take.
    """

    def __init__(self, name: str):
        self.name = name
        self.bar_name: str | None = name
        """Of the bar and the estimate; None for neither: of runs that train together one has them."""
        self.bar: Any = None
        self.audio_s = self.flops = 0.0
        self.peak = 0.0  # FLOP/s
        self.loss = ""
        self.timed_from: float | None = None
        self.projected = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if hasattr(pl_module, "passes"):
            self.peak = device_flops(trainer.strategy.root_device, dtype_of(trainer.precision))
        self.started, self.audio_s, self.flops = time.monotonic(), 0.0, 0.0
        self.first_step, self.timed_from = trainer.global_step, None
        if self.first_step and trainer.is_global_zero:
            print(f"{self.name}: continues after step {self.first_step}", file=sys.stderr)
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=self.bar_name,
            bar_format="{desc:.12} |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
            dynamic_ncols=True,
            disable=None if trainer.is_global_zero and self.bar_name else True,  # None: only in a terminal
        )

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.audio_s += float(batch.lengths.sum()) / SAMPLE_RATE * trainer.world_size
        self.flops += step_flops(pl_module, batch.lengths) if self.peak else 0.0
        elapsed_s = time.monotonic() - self.started
        speeds = {"audio_s_per_s": self.audio_s / elapsed_s}
        if self.peak:  # of one process: as many times more are computed, and possible, in all
            speeds["mfu"] = self.flops / elapsed_s / self.peak
        if trainer.global_step % log_interval(trainer) == 0:
            pl_module.log_dict(speeds)
            loss = trainer.callback_metrics.get("train/loss")
            self.loss = "" if loss is None or self.bar.disable else f"loss {float(loss):.3f}"
        self._project(trainer)
        self.bar.set_postfix_str(in_short(self.loss, speeds), refresh=False)
        self.bar.update()

    def _project(self, trainer: pl.Trainer) -> None:
        """Once, when enough steps have been timed: the time for all steps of this job."""
        done, steps = trainer.global_step - self.first_step, trainer.max_steps - self.first_step
        if steps < LONG_RUN_STEPS or not (trainer.is_global_zero and self.bar_name):
            return
        if self.timed_from is None and done >= UNTIMED_STEPS:
            self.timed_from = time.monotonic()
        elif done == UNTIMED_STEPS + TIMED_STEPS and not self.projected:
            assert self.timed_from is not None
            step_s = (time.monotonic() - self.timed_from) / TIMED_STEPS
            about = f"about {in_words(step_s * steps)} for {steps} steps ({step_s:.2f} s each)"
            self.bar.write(f"{self.bar_name}: {about}", file=sys.stderr)
            self.projected = True

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.bar is not None:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            shown = ", ".join(f"{name.removeprefix('val/')} {value:.4f}" for name, value in values.items())
            self.bar.write(f"{self.name} step {trainer.global_step}: dev {shown}", file=sys.stderr)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.close()

    @override
    def on_exception(
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

    @override
    def start(self, action_name: str) -> None:
        if action_name.endswith("train_dataloader_next"):
            self._since = time.monotonic()

    @override
    def stop(self, action_name: str) -> None:
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

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._reset(trainer)

    @override
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        if (trainer.global_step + 1) % log_interval(trainer):
            return
        norms = gradient_norms(pl_module)
        pl_module.log_dict({f"gradient_norm_{part}": norm for part, norm in norms.items()})
        if pl_module.automatic_optimization:  # other modules log these themselves
            pl_module.log("gradient_norm", torch.stack(list(norms.values())).norm())
            pl_module.log("lr", optimizer.param_groups[0]["lr"])

    @override
    def on_train_batch_end(
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
        """After a log line: measure from here."""
        self.logged = trainer.global_step
        self.since = time.monotonic()
        clock = profiler_of(trainer)
        self.waited_s = clock.waited_s if isinstance(clock, WaitClock) else 0.0


def log_interval(trainer: pl.Trainer) -> int:
    """Steps between two log lines."""
    return trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]


def profiler_of(trainer: pl.Trainer) -> Any:
    """The profiler, which Lightning sets in a way that type checkers do not see."""
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
    """Peak memory: allocated on a GPU, otherwise the resident set of this process without its workers."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource  # not on every platform that has a GPU

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def in_short(loss: str, speeds: dict[str, float]) -> str:
    """What the bar shows: "loss 1.234, audio 24x, mfu 31 %"."""
    mfu = f"mfu {100 * speeds['mfu']:.0f} %" if "mfu" in speeds else ""
    return ", ".join(part for part in (loss, f"audio {speeds['audio_s_per_s']:.0f}x", mfu) if part)


def in_words(seconds: float) -> str:
    """A duration: "3 h 20 min", "12 min", "45 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
