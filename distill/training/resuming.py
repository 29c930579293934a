"""What makes a resumed run equal one that was never stopped."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR
from typing_extensions import override

from distill.config import differing_values
from distill.errors import ConfigError
from distill.hashing import hash_number
from distill.options import Recipe
from distill.training.run_folder import RunFolder

logger = logging.getLogger(__name__)


def keep_recipe(trainer: pl.Trainer, recipe: Recipe, folder: RunFolder, *, resume: bool) -> None:
    """Keep the recipe in the run folder: now, or when a resumed run has loaded its checkpoint."""
    if resume:
        callbacks: Any = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        callbacks.append(KeepRecipe(recipe, folder))
    else:
        folder.start(recipe)


class KeepRecipe(Callback):
    """Writes the recipe of a resumed run when its checkpoint is loaded, and so fits the recipe."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder.start(self.recipe)


class StepSeed(Callback):
    """Seeds torch for every training batch by (seed, epoch, index of the batch, process).

    Dropout is then the same in a resumed run as in one that was never stopped, without any state to save. So
    are the numbers of log lines: Lightning's own count is one too many after a finished run is lengthened.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(hash_number("step", self.seed, *batch.position, trainer.global_rank) >> 1)
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step


class RecipeSettings(Callback):
    """Gives a resumed run the settings of its recipe, and says where its model differs from before.

    Lightning restores learning rate, betas, eps and weight decay from the checkpoint, along with the moments.
    A recipe that was changed (`--override`) would have no effect.
    """

    def __init__(self) -> None:
        self.made: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the settings of the optimisers, which are made but not yet restored."""
        self.made = [
            [{key: value for key, value in group.items() if key != "params"} for group in made.param_groups]
            for made in trainer.optimizers
        ]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to train for fewer steps than were made; say how the model differs, for instance in dropout.

        Raises:
            ConfigError: the recipe ends before the checkpoint.
        """
        made, wanted = checkpoint["global_step"], trainer.max_steps
        if made > wanted:
            raise ConfigError(
                f"the run has made {made} steps: optim.max_steps must be {made} or more, not {wanted}"
            )
        now: dict[str, Any] = {"state_dict": {}}
        pl_module.on_save_checkpoint(now)
        before, after = (_architecture(one) for one in (checkpoint, now))
        if before and (changes := differing_values(before, after)):
            logger.warning("from here on the model differs from before: %s", "; ".join(changes))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the recipe's settings again after the restore; the schedule continues at the current update."""
        for optimizer, groups in zip(trainer.optimizers, self.made, strict=True):
            for group, made in zip(optimizer.param_groups, groups, strict=True):
                group.update(made)
        for config in trainer.lr_scheduler_configs:
            schedule = config.scheduler
            assert isinstance(schedule, LambdaLR)
            groups = schedule.optimizer.param_groups
            schedule.base_lrs = [group["initial_lr"] for group in groups]
            factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
            schedule._last_lr = [lr * factor for lr, factor in zip(schedule.base_lrs, factors, strict=True)]
            for group, lr in zip(groups, schedule._last_lr, strict=True):
                group["lr"] = lr


def _architecture(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """That of the model as JSON represents it; {} if the checkpoint has none (heads)."""
    return json.loads(json.dumps(checkpoint.get("distill", {}).get("architecture", {})))
