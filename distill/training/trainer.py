"""The Lightning Trainer of a recipe, and the training with it."""

from __future__ import annotations

import difflib
import inspect
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from distill.errors import CheckpointError, ConfigError, UserError, first_line
from distill.options import DistillRecipe, Recipe, SpiralRecipe
from distill.options.shared import TRAINER_KEYS
from distill.processes import check_world
from distill.training.agreement import Agreement
from distill.training.devices import layout_of
from distill.training.faults import BadData, SkipNonFinite
from distill.training.keeping import StepKeeper
from distill.training.listening import Listening
from distill.training.locking import RunLock
from distill.training.loggers import make_loggers
from distill.training.progress import Gauges, StepProgress, WaitClock
from distill.training.resuming import RecipeSettings, StepSeed
from distill.training.run_folder import RunFolder
from distill.training.saving import CarefulCheckpointIO, SoundCheckpoint
from distill.training.stopping import GracefulStop


def make_trainer(recipe: Recipe, folder: RunFolder, *, monitor: str = "val/loss") -> pl.Trainer:
    """A Lightning Trainer with our callbacks and loggers; `recipe.trainer` is passed through.

    Args:
        recipe: its steps, validation, logging and trainer sections.
        folder: of the run.
        monitor: the checkpoint with the lowest value of this is kept as the best.
    """
    known = inspect.signature(pl.Trainer.__init__).parameters
    for key in recipe.trainer:
        if key not in known:
            close = difflib.get_close_matches(key, TRAINER_KEYS, n=1)
            hint = f": did you mean trainer.{close[0]}?" if close else ""
            raise ConfigError(f"unknown key 'trainer.{key}'{hint}")
        if key not in TRAINER_KEYS:
            raise ConfigError(f"trainer.{key} is not passed on: choose from {', '.join(TRAINER_KEYS)}")
    folder.refuse_links()
    layout = layout_of(recipe)
    check_world(layout.processes * layout.nodes)
    options = recipe.optim
    # Of what `replaying` can make again.
    keeper = StepKeeper(folder.kept_steps) if isinstance(recipe, DistillRecipe | SpiralRecipe) else None
    passed_on: dict[str, Any] = {"profiler": WaitClock(), "plugins": CarefulCheckpointIO()} | recipe.trainer
    try:
        return pl.Trainer(
            max_steps=options.max_steps,
            max_epochs=-1,
            # Lightning counts batches here, not updates: one batch is one update.
            val_check_interval=min(recipe.validation.every_n_steps, options.max_steps),
            check_val_every_n_epoch=None,
            limit_val_batches=recipe.validation.max_batches or 1.0,
            num_sanity_val_steps=0,
            log_every_n_steps=recipe.logging.every_n_steps,
            logger=make_loggers(recipe, folder),
            callbacks=[
                Agreement(recipe),
                SoundCheckpoint(folder.checkpoints, monitor, recipe.dev_score_of()),
                RecipeSettings(),
                StepProgress(recipe.name),
                Gauges(),
                Listening(recipe.logging.audio_every_n_steps),
                SkipNonFinite(folder, options.max_nonfinite, keeper),
                BadData(folder, recipe.data.max_bad_fraction),
                StepSeed(recipe.seed),
                GracefulStop(folder),
            ],
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder.path,
            **passed_on,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:  # the last: SLURM
        raise ConfigError(f"trainer: {first_line(error)}") from None


def describe_device(trainer: pl.Trainer) -> str:
    """What a trainer computes on and how precisely: "2 x NVIDIA H100, bf16-mixed"."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"CPU ({threads} thread{'s' if threads > 1 else ''})"
    else:
        name = device.type
    return f"{trainer.world_size} x {name}, {trainer.precision}"


def say_start(trainer: pl.Trainer, recipe: Recipe, models: str, out: Path) -> None:
    """Print what is trained, into which folder, and for how long on what; once, whatever the processes."""
    if trainer.is_global_zero:
        print(
            f"{recipe.name}: {models}; into {out}\n"
            f"  {recipe.optim.max_steps} steps of {recipe.data.batch_size} utterances on "
            f"{describe_device(trainer)}",
            file=sys.stderr,
        )


def fit(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    folder: RunFolder,
    *,
    resume: bool,
    lock: RunLock | None = None,
) -> float:
    """Train, and write `checkpoints/last.ckpt` whatever happens; `finish` marks the run as finished.

    Args:
        trainer: of `make_trainer`.
        module: what to train.
        data: on what.
        folder: of the run.
        resume: continue from its last checkpoint.
        lock: of the run folder.

    Returns:
        The seconds that it took.

    Raises:
        Unsaved: the training is done, and the disk does not have all of its checkpoints.
    """
    started = time.monotonic()
    callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    callbacks += [lock] if lock else []
    try:
        last = str(folder.last) if resume else None
        trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ConfigError(
            f"{folder.last} is of a model of another shape than the recipe's: {first_misfit(error)}"
        ) from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if not was_restoring(error):
            raise
        raise CheckpointError(
            f"{folder.last} is not what a training wrote ({type(error).__name__}: {first_line(error)}): "
            "restore it from a copy"
        ) from error
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # so Lightning ends on Ctrl-C
            raise KeyboardInterrupt from None
        raise
    if lock is not None:
        lock.check()
    problem = trainer.strategy.broadcast(getattr(trainer.strategy.checkpoint_io, "problem", ""))
    if problem:
        raise Unsaved(
            f"{problem}: the run is not finished, nothing is released; make room, then "
            f"{folder.how_to_continue()}"
        )
    return time.monotonic() - started


def finish(trainer: pl.Trainer, folder: RunFolder, seconds: float) -> None:
    """Note that a run is finished, when all that it makes is complete."""
    if trainer.is_global_zero:
        folder.finish(steps=trainer.global_step, seconds=seconds)


class Unsaved(UserError):
    """The training is done, but its checkpoints could not all be written."""

    joint = True


def was_restoring(error: Exception) -> bool:
    """Whether an error arose while Lightning put the contents of a checkpoint into place."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(
        frame.filename.endswith("checkpoint_connector.py") and frame.name.startswith("restore")
        for frame in frames
    )


def first_misfit(error: Exception) -> str:
    """What torch says first about weights that do not fit."""
    return str(error).splitlines()[1].strip()
