"""Steps whose gradient was not finite, kept for `distill train --replay` (`replaying`)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from distill.atomic import atomic
from distill.checkpoints.files import save_torch

logger = logging.getLogger(__name__)

_MOST_KEPT = 2
"""Steps of a run: the first ones tell most, and each takes as much room as the weights."""


class StepKeeper:
    """Keeps the weights before each step on their device, and writes them if its gradient was not finite.

    Such an update is left out. When that is known, one step later, the weights before the later step are
    therefore those before the earlier one, too. They are written with the position of the batch, from which
    batch, distortions and dropout follow; of the distortion classifier, which is updated before the student,
    the weights may be those of one update later.

    Args:
        folder: for the files, `step-N.ckpt`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights: dict[str, Tensor] = {}
        self.before: dict[str, Tensor] = {}

    def start(self, module: pl.LightningModule) -> None:
        """Find what a checkpoint of the module would hold."""
        checkpoint: dict[str, Any] = {"state_dict": module.state_dict()}
        module.on_save_checkpoint(checkpoint)
        self.weights = dict(checkpoint["state_dict"])
        self.before = {name: torch.empty_like(value) for name, value in self.weights.items()}

    def note(self) -> None:
        """Copy the weights; nobody waits for it."""
        if self.weights:
            torch._foreach_copy_(list(self.before.values()), list(self.weights.values()))

    def write(self, step: int, position: tuple[int, int], ids: list[str]) -> None:
        """Write the weights as last noted, unless enough steps are there already."""
        path = self.folder / f"step-{step}.ckpt"
        if not self.weights or len(list(self.folder.glob("step-*.ckpt"))) >= _MOST_KEPT:
            return
        about = {"step": step, "position": list(position), "ids": ids}
        contents = {"replay": about, "state_dict": self.before}
        try:
            with atomic(path, sole=True) as partial:
                save_torch(contents, partial)
        except OSError as error:
            logger.warning("%s could not be written (%s)", path, error.strerror)
            return
        logger.warning("step %d can be looked at: distill train --replay %s", step, path)
