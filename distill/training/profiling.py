"""Where the time of a training step goes: the real loop, for a few steps, with a clock around its parts."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from distill.batch import Batch
from distill.data.datamodule import SpeechData
from distill.distillation import Distillation
from distill.errors import ConfigError, UsageError, first_line
from distill.options import CDM, DistillRecipe, Recipe
from distill.training.flops import device_flops, dtype_of, step_flops
from distill.training.run_folder import RunFolder
from distill.training.train import make_module
from distill.training.trainer import describe_device, fit
from distill.waveforms import SAMPLE_RATE

WARM_UP = 3  # steps: memory is allocated, kernels are chosen, data workers start
PARTS = ("data wait", "distortions", "teacher", "student forward", "backward", "optimiser", "classifier")
OTHER = "loss, other"
_ADVICE = {
    "data wait": "Loading takes longest, though not long: more data.workers may help",
    "distortions": "Distorting takes longest, as it does on a CPU only (pitch and reverb): use a GPU",
    "teacher": "The teacher takes longest, being large: trainer.precision=bf16-mixed helps on recent GPUs, "
    "and a smaller data.max_samples shortens what it hears",
    "student forward": "The student takes longest: trainer.precision=bf16-mixed helps on recent GPUs; "
    "beyond that only more devices help",
    "backward": "The student's gradients take longest: trainer.precision=bf16-mixed helps on recent GPUs; "
    "beyond that only more devices help",
    "optimiser": "Updating the weights takes longest, so batches are small: larger ones cost little",
    "classifier": "The distortion classifier takes longest, so batches are tiny: larger ones cost little",
    OTHER: "The loss and the loop itself take longest, so batches are small: larger ones cost little",
}


@dataclass(frozen=True, kw_only=True)
class ProfileReport:
    """What `profile` measured; as a string, the table that the command line prints."""

    recipe: str
    """Its name."""
    device: str
    """How many devices of which kind, and the precision. Times are those of the first process."""
    utterances: float
    """Of a global batch, on average."""
    workers: int
    """Data workers of a process."""
    parts_ms: dict[str, float]
    """Median milliseconds of a step by part, in the order of the table."""
    step_ms: float
    """Median milliseconds of a step."""
    steps: int
    """Measured steps."""
    audio_s_per_s: float
    """Seconds of speech per second, over all processes and measured steps."""
    mfu: float = 0.0
    """The share of what a matrix product reaches on the device; 0 if that is not known."""

    @property
    def shares(self) -> dict[str, float]:
        """The parts as shares of their sum."""
        total = sum(self.parts_ms.values())
        return {name: ms / total for name, ms in self.parts_ms.items()}

    @property
    def advice(self) -> str:
        """One sentence on what to do about the part that dominates."""
        shares = self.shares
        if shares["data wait"] > 0.2:
            return (
                f"A step waits for data {shares['data wait']:.0%} of the time: raise data.workers (now "
                f"{self.workers}) as far as there are cores, then put the corpora on a faster disk."
            )
        largest = max(shares, key=lambda name: shares[name])
        return f"{_ADVICE[largest]} ({largest} is {shares[largest]:.0%} of a step)."

    def __str__(self) -> str:
        mfu = f", {self.mfu:.0%} of what a matrix product reaches" if self.mfu else ""
        rows = [f"{name:<16} {ms:>9.1f} {self.shares[name]:>6.0%}" for name, ms in self.parts_ms.items()]
        return "\n".join(
            [
                f"{self.recipe}: {self.device}; {self.utterances:.0f} utterances a step, "
                f"{self.workers} data workers",
                f"{'part':<16} {'median ms':>9} {'share':>6}",
                *rows,
                f"{'step':<16} {self.step_ms:>9.1f}",
                f"{self.audio_s_per_s:.1f} s of audio per second over {self.steps} steps{mfu}",
                self.advice,
            ]
        )


def profile(recipe: Recipe, steps: int = 20) -> ProfileReport:
    """Train for a few steps and say where the time went. Nothing is kept.

    On a CUDA device the marks are events in its stream, read at the end: nothing waits for them, so steps are
    as fast as in training, and "data wait" is the time that the device stood idle for data.

    Args:
        recipe: to distil a student; its teacher and data must exist.
        steps: measured ones, after 3 to warm up.

    Raises:
        UsageError: the recipe trains no student, or steps is not positive.
        UserError: for anything else that the user can fix.
    """
    if steps < 1:
        raise UsageError(f"steps must be at least 1, not {steps}")
    if not isinstance(recipe, DistillRecipe):
        raise UsageError(f"recipe {recipe.name} is of kind {recipe.kind}: only distillation can be profiled")
    pl.seed_everything(recipe.seed, verbose=False)
    recipe = replace(recipe, optim=replace(recipe.optim, max_steps=WARM_UP + steps))
    data = SpeechData(recipe, streams=sorted({s for s in CDM[recipe.cdm] if s}))
    module = make_module(recipe)
    clock = StepClock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(recipe, clock, folder)
        fit(trainer, module, data, RunFolder(Path(folder)), resume=False)
    if len(clock.ends) < WARM_UP + steps:
        raise UsageError(f"{len(clock.ends)} steps were made: too few, is the training set empty?")
    return clock.report(recipe, trainer)


def _trainer(recipe: Recipe, clock: StepClock, folder: str) -> pl.Trainer:
    """The recipe's trainer without validation, logs and checkpoints."""
    options: dict[str, Any] = recipe.trainer | {"profiler": _FetchMarks(clock)}
    try:
        return pl.Trainer(
            max_steps=recipe.optim.max_steps,
            max_epochs=-1,
            limit_val_batches=0,
            log_every_n_steps=recipe.logging.every_n_steps,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[clock],
            default_root_dir=folder,
            **options,
        )
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {first_line(error)}") from None


class StepClock(Callback):
    """Marks the beginning and end of every part of every step, without changes to the module."""

    def __init__(self) -> None:
        self.spans: list[list[tuple[str, Any, Any]]] = [[]]  # of each step: part, begin, end
        self.ends: list[Any] = []  # of each step
        self.audio_s: list[float] = []  # of each step, in this process
        self.flops: list[float] = []
        self.utterances: list[int] = []
        self.open: dict[str, Any] = {}
        self.mark: Callable[[], Any] = time.perf_counter

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Distillation)
        if trainer.strategy.root_device.type == "cuda":
            self.mark = _cuda_mark
        self._wrap(pl_module, "distort", "distortions")
        self._wrap(pl_module, "teacher_features", "teacher")
        self._wrap(pl_module, "manual_backward", "backward")
        self._wrap(pl_module, "_step_student", "optimiser")
        if pl_module.dat.enabled:
            self._wrap(pl_module, "_teach_classifier", "classifier")
            self._wrap(pl_module, "_adversarial_loss", "classifier")
            self._wrap(pl_module, "_step_classifier", "classifier")
        pl_module.student.register_forward_pre_hook(lambda *_: self.begin("student forward"))
        pl_module.student.register_forward_hook(lambda *_: self.end("student forward"))

    def _wrap(self, module: Distillation, method: str, part: str) -> None:
        original = getattr(module, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin(part)
            try:
                return original(*args, **kwargs)
            finally:
                self.end(part)

        setattr(module, method, timed)

    def begin(self, part: str) -> None:
        """A part begins."""
        self.open[part] = self.mark()

    def end(self, part: str) -> None:
        """It ends; its time counts for the current step."""
        self.spans[-1].append((part, self.open.pop(part), self.mark()))

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.ends.append(self.mark())
        self.audio_s.append(float(batch.lengths.sum()) / SAMPLE_RATE)
        self.flops.append(step_flops(pl_module, batch.lengths))
        self.utterances.append(len(batch))
        self.spans.append([])

    def report(self, recipe: Recipe, trainer: pl.Trainer) -> ProfileReport:
        """The times of the steps after the warm-up."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        steps_ms, parts_ms = [], []
        for step in range(WARM_UP, len(self.ends)):
            steps_ms.append(_milliseconds(self.ends[step - 1], self.ends[step]))
            taken: dict[str, float] = {}
            for part, begin, end in self.spans[step]:
                taken[part] = taken.get(part, 0.0) + _milliseconds(begin, end)
            parts_ms.append(taken | {OTHER: steps_ms[-1] - sum(taken.values())})
        seconds = sum(steps_ms) / 1000
        peak = device_flops(trainer.strategy.root_device, dtype_of(trainer.precision))
        seen = [name for name in (*PARTS, OTHER) if any(name in taken for taken in parts_ms)]
        return ProfileReport(
            recipe=recipe.name,
            device=describe_device(trainer),
            utterances=trainer.world_size * sum(self.utterances[WARM_UP:]) / len(steps_ms),
            workers=recipe.data.workers,
            parts_ms={name: median(taken.get(name, 0.0) for taken in parts_ms) for name in seen},
            step_ms=median(steps_ms),
            steps=len(steps_ms),
            audio_s_per_s=trainer.world_size * sum(self.audio_s[WARM_UP:]) / seconds,
            mfu=sum(self.flops[WARM_UP:]) / seconds / peak if peak else 0.0,
        )


class _FetchMarks(Profiler):
    """A profiler of Lightning that marks the fetching of batches, and nothing else."""

    def __init__(self, clock: StepClock):
        super().__init__()
        self.clock = clock

    def start(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self.clock.begin("data wait")

    def stop(self, action_name: str) -> None:
        if action_name.endswith(".train_dataloader_next"):
            self.clock.end("data wait")


def _cuda_mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _milliseconds(begin: Any, end: Any) -> float:
    """Between two marks, which are seconds or CUDA events."""
    return 1000 * (end - begin) if isinstance(begin, float) else begin.elapsed_time(end)
