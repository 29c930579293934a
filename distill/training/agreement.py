"""Processes that train together agree on what they train: recipe, speech and where they go on.

Each of them reads the recipe, the speech and the checkpoint for itself, on its own machine. If they differ,
gradients are averaged all the same, each process then makes another update of them, and the weights drift
apart without a word.
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import distributed

from distill.config import differing_values
from distill.config.method import method_of
from distill.errors import ConfigError
from distill.options import Recipe


class Disagreement(ConfigError):
    """Processes were about to train something else than the first one."""

    joint = True


class Agreement(Callback):
    """Compares what the processes are about to train, before the first step.

    Args:
        recipe: of the run.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse to train.

        Raises:
            Disagreement: on all processes, naming one that differs and in what.
        """
        if trainer.world_size == 1:
            return
        every: list[Any] = [None] * trainer.world_size
        distributed.all_gather_object(every, self._about(trainer))
        first = every[0]
        for rank, own in enumerate(every):
            if differing := differing_values(first, own):
                raise Disagreement(
                    f"process {rank} would train something else than the first one ({'; '.join(differing)}): "
                    "all machines must see the same recipe, speech and run folder"
                )

    def _about(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Plain values that decide what is trained; paths may differ between machines."""
        words = (word.partition("=") for word in method_of(self.recipe))
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        return {
            "recipe": {"name": self.recipe.name, **{key: value for key, _, value in words}},
            "seed": self.recipe.seed,
            "data.order_seed": self.recipe.order_seed,
            "speech": getattr(data, "speech", None),
            "resumed": bool(trainer.ckpt_path),
            "at step": trainer.global_step,
        }
