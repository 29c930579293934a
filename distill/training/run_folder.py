"""Run folders: what a training run writes, and the Lightning Trainer that writes it."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from distill.atomic import write_text
from distill.checkpoints import native
from distill.config import WHOLE, to_yaml
from distill.errors import UserError
from distill.hubert import HubertEncoder
from distill.options import Recipe
from distill.processes import is_follower
from distill.student import Student
from distill.training.locking import NAME as LOCK
from distill.training.locking import RunLock
from distill.training.loggers import WANDB_ID
from distill.training.saving import BEST, read_checkpoint

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


def finish(trainer: pl.Trainer, out: Path, seconds: float) -> None:
    """Note that a run is finished, when all that it makes is there."""
    if trainer.is_global_zero:
        about = {"steps": trainer.global_step, "seconds": round(seconds, 1)}
        write_text(out / "finished.json", json.dumps(about) + "\n")


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
