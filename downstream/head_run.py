"""What differs for users between the training of a head and `distill train`: options, and how to resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from typing_extensions import override

from distill.options import Recipe
from distill.options.shared import INSTEAD_OF
from distill.training.run_folder import RunFolder

INSTEAD_OF_IN_EVALUATIONS = INSTEAD_OF | {
    "gradient_clip_val": "nothing: the gradient of a head is clipped to 1, as in s3prl",
    "gradient_clip_algorithm": "nothing: the gradient of a head is clipped by its norm, as in s3prl",
    "accumulate_grad_batches": "batch_size, which is of a whole update",
    "max_steps": "steps",
    "max_epochs": "steps",
    "val_check_interval": "every_n_steps",
    "check_val_every_n_epoch": "every_n_steps",
    "limit_val_batches": "nothing: heads are chosen on the whole dev set",
    "fast_dev_run": "steps",
    "limit_train_batches": "steps",
    "overfit_batches": "sources.train with a few utterances",
    "min_steps": "steps",
    "min_epochs": "steps",
    "num_sanity_val_steps": "every_n_steps",
}
"""As `INSTEAD_OF`, in the words of evaluations, which have others for some options and none for others."""


@dataclass(kw_only=True)
class HeadRecipe(Recipe):
    """The training of a head, as the framework's Trainer takes it."""

    kind: str = "evaluate"

    instead_of: ClassVar[Mapping[str, str]] = INSTEAD_OF_IN_EVALUATIONS


class HeadFolder(RunFolder):
    """The run folder of a head: an evaluation has no --resume, the same command continues it."""

    settings_may_change: ClassVar[bool] = False

    @override
    def how_to_continue(self, *, changed: bool = False) -> str:
        return "give the same command again"

    @override
    def option(self, key: str) -> str:
        return key.rpartition(".")[2]
