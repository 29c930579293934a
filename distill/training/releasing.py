"""The model that a finished training releases."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from distill.checkpoints import native, teacher_facts
from distill.checkpoints.files import read_safetensors
from distill.checkpoints.heard import heard_facts, noises_heard
from distill.config.method import method_facts
from distill.encoder import Encoder
from distill.errors import CheckpointError
from distill.options import Recipe
from distill.student import Student
from distill.training.run_folder import RunFolder, versions
from distill.training.saving import read_checkpoint

logger = logging.getLogger(__name__)


def provenance_of(recipe: Recipe) -> dict[str, Any]:
    """What a model that a recipe makes says about how it was made: recipe, teacher, noise, versions."""
    return {
        **method_facts(recipe),
        **teacher_facts(recipe.teacher),
        **heard_facts(recipe.teacher, noises_heard({}, asdict(recipe))),
        "versions": versions(),
    }


def check_made(path: Path) -> None:
    """Refuse to call a run finished whose released model is damaged.

    Raises:
        CheckpointError: naming the file.
    """
    try:
        read_safetensors(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or remove it: the same command then makes it again") from None


def release(
    trainer: pl.Trainer,
    model: Encoder | Student,
    prefix: str,
    folder: RunFolder,
    provenance: dict[str, Any],
    *,
    which: Literal["best", "last"] = "best",
) -> Path:
    """Write a trained model as safetensors and JSON.

    Args:
        trainer: after training.
        model: as it is after the last step; gets the weights that `checkpoints/best.ckpt` has under `prefix`.
        prefix: "student." or "encoder.".
        folder: of the run.
        provenance: kept in the JSON, with the step.
        which: "best": the model of the lowest dev loss, if anything was validated; "last": of the last step.
    """
    if trainer.is_global_zero:
        step = trainer.global_step
        if which == "best" and folder.best.exists():
            checkpoint = read_checkpoint(folder.best)
            weights = checkpoint["state_dict"].items()
            model.load_state_dict({k.removeprefix(prefix): v for k, v in weights if k.startswith(prefix)})
            step = checkpoint["global_step"]
            _say_unvalidated(trainer, step)
        elif which == "best" and (before := _best_before(trainer)) is not None:
            logger.warning(
                "%s, of dev %.4f, is missing: the last step, %d, is released", folder.best, before, step
            )
        native.write(model, folder.path, provenance | {"step": step})
    trainer.strategy.barrier()
    return folder.student if isinstance(model, Student) else folder.teacher


def _best_before(trainer: pl.Trainer) -> float | None:
    """Lowest dev loss of the run before it was resumed."""
    return getattr(trainer.checkpoint_callback, "before", None)


def _say_unvalidated(trainer: pl.Trainer, released: int) -> None:
    """Warn that the steps after the last validation, which may be better, were not considered."""
    every = trainer.val_check_batch
    batches = trainer.fit_loop.total_batch_idx + 1
    if isinstance(every, int) and every and batches % every:
        logger.warning(
            "step %d of %d is released, the lowest dev loss; the last %d steps were not validated: "
            "validation.every_n_steps should divide optim.max_steps",
            *(released, trainer.global_step, batches % every),
        )
