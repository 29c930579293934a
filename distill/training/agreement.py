"""Processes that train together agree on what they train: recipe, speech and where they go on.

Each of them reads the recipe, the speech and the checkpoint for itself, on its own machine. If they differ,
gradients are averaged all the same, each process then makes another update of them, and the weights drift
apart without a word; or one waits for ever for what the others do not do.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import distributed
from typing_extensions import override

from distill.config import differing_values, flat
from distill.errors import ConfigError
from distill.options import Recipe
from distill.options.shared import last_part

_MAY_DIFFER = (
    "description",
    "teacher",  # its weights are those of the first process: DDP copies them
    "objective.units.codebook",  # the same
    "data.root",
    "data.train",  # of which the utterances are compared
    "data.workers",
    "logging.wandb",
    "logging.project",
)
_OF_THE_FIRST = ("tests.", "decoding.")
"""Sections that only the first process needs, after the training."""


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

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare recipe and speech: DDP would say less clearly that shapes differ.

        Raises:
            Disagreement: on all processes, naming one that differs and in what.
        """
        data: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        recipe = {
            key: _placeless(value)
            for key, value in flat(asdict(self.recipe)).items()
            if key not in _MAY_DIFFER and not key.startswith(_OF_THE_FIRST)
        }
        _compare(trainer, recipe | {"speech": getattr(data, "speech", None)})

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare where they go on.

        Raises:
            Disagreement: as `setup`.
        """
        _compare(trainer, {"resumed": bool(trainer.ckpt_path), "at step": trainer.global_step})


def _placeless(value: Any) -> Any:
    """Files by the last part of their paths: they may lie elsewhere on another machine."""
    if isinstance(value, list):
        return [_placeless(one) for one in value]
    return last_part(value) if isinstance(value, str) else value


def _compare(trainer: pl.Trainer, own: dict[str, Any]) -> None:
    if trainer.world_size == 1:
        return
    every: list[Any] = [None] * trainer.world_size
    distributed.all_gather_object(every, own)
    for rank, other in enumerate(every):
        if differing := differing_values(every[0], other):
            raise Disagreement(
                f"process {rank} would train something else than the first one ({'; '.join(differing)}): "
                "all machines must see the same recipe, speech and run folder"
            )
