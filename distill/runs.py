"""Run folders: what a training run writes, and the Lightning Trainer that writes it."""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from distill.atomic import write_text
from distill.callbacks import Gauges, GracefulStop, StepProgress, WaitClock
from distill.checkpoints import native
from distill.config import WHOLE, to_yaml
from distill.errors import ConfigError, UserError, first_line
from distill.faults import BadData, SkipNonFinite
from distill.hubert import HubertEncoder
from distill.locking import NAME as LOCK
from distill.locking import RunLock
from distill.logs import WANDB_ID, Listening, make_loggers
from distill.needs import layout_of
from distill.options import TRAINER_KEYS, Recipe
from distill.processes import check_world, is_follower
from distill.resuming import RecipeSettings, StepSeed
from distill.saving import BEST, LAST, CarefulCheckpointIO, SoundCheckpoint, read_checkpoint
from distill.student import Student

logger = logging.getLogger(__name__)


def check_run_folder(out: Path, *, resume: bool) -> None:
    """Refuse to write over another run, or to resume what is none; nothing is written yet."""
    last = out / "checkpoints" / "last.ckpt"
    if not resume and last.exists():
        if not is_follower():
            RunLock(out).refuse_others()
        raise UserError(f"{out} holds a run already: go on with --resume {out}, or choose another --out")
    if resume and not last.exists():
        raise UserError(f"{out} has no checkpoints/last.ckpt to resume from")
    if out.is_file():
        raise UserError(f"{out} is a file: choose a folder for the run with --out")
    ours = (WANDB_ID, LOCK)
    others = [path for path in out.iterdir() if path.name not in ours] if out.is_dir() else []
    if others and not (out / "recipe.yaml").exists():
        raise UserError(f"{out} holds other things: choose an empty or new folder with --out")


class KeepRecipe(Callback):
    """Writes the recipe of a run that goes on when its checkpoint is loaded, and so fits the recipe."""

    def __init__(self, recipe: Recipe, out: Path):
        self.recipe, self.out = recipe, out

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        start_run_folder(self.recipe, self.out)


def keep_recipe(trainer: pl.Trainer, recipe: Recipe, out: Path, *, resume: bool) -> None:
    """Keep the recipe in the run folder: now, or when a run that goes on has loaded its checkpoint."""
    if resume:
        callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        callbacks.append(KeepRecipe(recipe, out))
    else:
        start_run_folder(recipe, out)


def start_run_folder(recipe: Recipe, out: Path) -> None:
    """Make the folder and keep the resolved recipe and the versions in it."""
    if is_follower():
        return
    _keep(out / "recipe.yaml", f"{to_yaml(recipe)}{WHOLE}\n")
    _keep(out / "versions.json", json.dumps(versions(), indent=2) + "\n")


def _keep(path: Path, text: str) -> None:
    """Write a file whole, unless it says that already: a full disk cannot hurt what is right."""
    if not path.exists() or path.read_bytes() != text.encode():
        write_text(path, text)


def versions() -> dict[str, str]:
    """What this run was made with."""
    found = {"python": platform.python_version()}
    for name in ("robust-distilhubert", "torch", "torchaudio", "pytorch-lightning", "lhotse"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    found["git"] = git.stdout.strip() or "none"
    return found


def make_trainer(recipe: Recipe, out: Path, *, monitor: str = "val/loss") -> pl.Trainer:
    """A Lightning Trainer with our callbacks and loggers; `recipe.trainer` is passed through.

    Args:
        recipe: its steps, validation, logging and trainer sections.
        out: the run folder.
        monitor: the checkpoint with the lowest value of this is kept as the best.
    """
    known = inspect.signature(pl.Trainer.__init__).parameters
    for key in recipe.trainer:
        if key not in known:
            close = difflib.get_close_matches(key, TRAINER_KEYS, n=1)
            hint = f": did you mean trainer.{close[0]}?" if close else ""
            raise ConfigError(f"unknown key 'trainer.{key}'{hint}")
        if key not in TRAINER_KEYS:
            raise ConfigError(f"trainer.{key} is not passed on: there are {', '.join(TRAINER_KEYS)}")
    layout = layout_of(recipe)
    check_world(layout.processes * layout.nodes)
    options = recipe.optim
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
            logger=make_loggers(recipe, out),
            callbacks=[
                SoundCheckpoint(out / "checkpoints", monitor),
                RecipeSettings(),
                StepProgress(recipe.name),
                Gauges(),
                Listening(recipe.logging.audio_every_n_steps),
                SkipNonFinite(out, recipe.optim.max_nonfinite, of_head=recipe.kind == "evaluate"),
                BadData(out, recipe.data.max_bad_fraction, of_head=recipe.kind == "evaluate"),
                StepSeed(recipe.seed),
                GracefulStop(),
            ],
            use_distributed_sampler=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=out,
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


def fit(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    out: Path,
    *,
    resume: bool,
    lock: RunLock | None = None,
) -> float:
    """Train; leave `checkpoints/last.ckpt` behind whatever happens. `finish` is what makes the run finished.

    Args:
        trainer: of `make_trainer`.
        module: what to train.
        data: on what.
        out: the run folder.
        resume: go on from its last checkpoint.
        lock: of the run folder.

    Returns:
        The seconds that it took.

    Raises:
        Unsaved: the training is done, and the disk does not have all of its checkpoints.
    """
    last = out / "checkpoints" / LAST
    started = time.monotonic()
    callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    callbacks += [lock] if lock else []
    try:
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if resume else None, weights_only=True)
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise ConfigError(
            f"{last} is of a model of another shape than the recipe's: {first_misfit(error)}"
        ) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's way of ending on Ctrl-C
            raise KeyboardInterrupt from None
        raise
    if lock is not None:
        lock.check()
    problem = trainer.strategy.broadcast(getattr(trainer.strategy.checkpoint_io, "problem", ""))
    if problem:
        of_head = any(callback.of_head for callback in callbacks if isinstance(callback, BadData))
        how = "give the same command again" if of_head else f"go on with --resume {out}"
        raise Unsaved(f"{problem}: the run is not finished, nothing is released; make room, then {how}")
    return time.monotonic() - started


class Unsaved(UserError):
    """The training is done, but not on the disk, where the best checkpoint may be an earlier one."""

    joint = True


def finish(trainer: pl.Trainer, out: Path, seconds: float) -> None:
    """Note that a run is finished, when all that it makes is there."""
    if trainer.is_global_zero:
        about = {"steps": trainer.global_step, "seconds": round(seconds, 1)}
        write_text(out / "finished.json", json.dumps(about) + "\n")


def first_misfit(error: Exception) -> str:
    """What torch says first about weights that do not fit."""
    return str(error).splitlines()[1].strip()


def steps_done(out: Path) -> int:
    """Updates of a finished run; 0 if it is not finished."""
    finished = out / "finished.json"
    try:
        return int(json.loads(finished.read_text(encoding="utf-8"))["steps"])
    except (OSError, ValueError, TypeError, KeyError):  # none, or cut by a full disk
        return 0


def release(
    trainer: pl.Trainer,
    model: HubertEncoder | Student,
    prefix: str,
    out: Path,
    provenance: dict[str, Any],
) -> Path:
    """Write the model of the best checkpoint (of the end, if nothing was validated) as safetensors and JSON.

    Args:
        trainer: after training.
        model: gets the weights that `checkpoints/best.ckpt` has under `prefix`.
        prefix: "student." or "encoder.".
        out: the run folder.
        provenance: kept in the JSON, with the step.
    """
    best = out / "checkpoints" / BEST
    if trainer.is_global_zero:
        step = trainer.global_step
        if best.exists():
            checkpoint = read_checkpoint(best)
            weights = checkpoint["state_dict"].items()
            model.load_state_dict({k.removeprefix(prefix): v for k, v in weights if k.startswith(prefix)})
            step = checkpoint["global_step"]
            _say_unvalidated(trainer, step)
        elif (before := getattr(trainer.checkpoint_callback, "before", None)) is not None:
            logger.warning(
                "%s, of dev %.4f, is not there: the last step, %d, is released", best, before, step
            )
        native.write(model, out, provenance | {"step": step})
    trainer.strategy.barrier()
    return out / ("student.safetensors" if isinstance(model, Student) else "teacher.safetensors")


def _say_unvalidated(trainer: pl.Trainer, released: int) -> None:
    """Steps behind the last validation may have been better than what is released; nobody knows."""
    every = trainer.val_check_batch
    batches = trainer.fit_loop.total_batch_idx + 1
    if isinstance(every, int) and every and batches % every:
        logger.warning(
            "step %d of %d is released, the lowest dev loss; the last %d steps were not validated: "
            "validation.every_n_steps should divide optim.max_steps",
            *(released, trainer.global_step, batches % every),
        )
