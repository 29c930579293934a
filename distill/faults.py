"""When something goes wrong in a long run: bad data, losses that are not finite, a full disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback

from distill.batch import Batch
from distill.callbacks import log_interval, save_last
from distill.errors import DataError, UserError

logger = logging.getLogger(__name__)

_ENOUGH_READS = 1_000  # utterances, after which a share says something


class BadData(Callback):
    """Lists utterances that cannot be used in `skipped.tsv`, and stops a run that meets too many.

    The share is that of all processes together, judged with every log line once 1000 utterances have been
    read, and at the end of every epoch.

    Args:
        folder: the run folder.
        max_fraction: largest share of unusable utterances.
    """

    def __init__(self, folder: Path, max_fraction: float):
        self.path = folder / "skipped.tsv"
        self.max_fraction = max_fraction
        self.n_read = self.n_bad = 0
        self.listed: set[str] = set()
        self.last = ""

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.n_read += len(batch) + len(batch.skipped)
        self.n_bad += len(batch.skipped)
        self._list(batch.skipped)
        if (batch_idx + 1) % log_interval(trainer) == 0:
            self._judge(trainer, pl_module, at_least=_ENOUGH_READS)

    def on_validation_batch_end(  # noqa: D102
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._list(batch.skipped)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self._judge(trainer, pl_module, at_least=1)

    def _list(self, skipped: list[tuple[str, str]]) -> None:
        """Append what is new to the list; several processes may write to it."""
        new = [(name, reason) for name, reason in skipped if name not in self.listed]
        if not new:
            return
        if not self.listed:
            logger.warning("an utterance cannot be used: %s: %s; all are listed in %s", *new[0], self.path)
        self.listed |= {name for name, _ in new}
        self.last = f"{new[-1][0]}: {new[-1][1]}"
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(f"{name}\t{' '.join(reason.split())}\n" for name, reason in new))
        except OSError as error:
            logger.warning("%s cannot be written (%s)", self.path, error)

    def _judge(self, trainer: pl.Trainer, module: pl.LightningModule, at_least: int) -> None:
        counts = torch.tensor([self.n_read, self.n_bad], dtype=torch.int64, device=module.device)
        if trainer.world_size > 1:
            torch.distributed.all_reduce(counts)
        n_read, n_bad = counts.tolist()
        if n_read < at_least or n_bad <= self.max_fraction * n_read:
            return
        run = save_last(trainer).parents[1]
        raise DataError(
            f"{n_bad} of {n_read} utterances cannot be used, more than data.max_bad_fraction="
            f"{self.max_fraction:g} allows; {self.path} lists them, the last is {self.last or 'there'}. "
            f"Mend them or raise the limit, then go on with --resume {run} --override"
        )


class SkipNonFinite(Callback):
    """Leaves out updates whose gradient is not finite, and stops after too many on end.

    With float16, whose loss scale finds its size by overflowing, the first updates are skipped as well.

    Args:
        folder: the run folder; `nonfinite.tsv` in it lists step and utterances of each such update.
        most: updates on end that may be left out.
    """

    def __init__(self, folder: Path, most: int):
        self.path = folder / "nonfinite.tsv"
        self.most = most
        self.on_end = 0
        self.ids: list[str] = []

    def on_train_batch_start(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.ids = batch.ids

    def on_before_optimizer_step(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        # The same on every process: gradients have been averaged by now.
        if torch.isfinite(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])):
            self.on_end = 0
            return
        for parameter in parameters:
            parameter.grad = None  # optimisers leave such a parameter as it is
        self.on_end += 1
        self._list(trainer.global_step)

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.on_end < self.most:
            return
        run = save_last(trainer).parents[1]
        some = ", ".join(batch.ids[:5]) + " ..." * (len(batch.ids) > 5)
        raise UserError(
            f"the gradient was not finite in {self.on_end} updates on end, up to step {trainer.global_step}; "
            f"the last batch held {some}, {self.path} lists all. Try a lower optim.lr or "
            f"trainer.precision=32, then --resume {run} --override"
        )

    def _list(self, step: int) -> None:
        if self.on_end == 1:
            logger.warning("step %d: the gradient is not finite; left out, see %s", step, self.path)
        try:
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{step}\t{' '.join(self.ids)}\n")
        except OSError as error:
            logger.warning("%s cannot be written (%s)", self.path, error)


class CarefulCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside the old ones first: whatever happens, one of the two is whole.

    A checkpoint that cannot be written, for lack of room say, does not end the training: the previous one
    stays, and `problem` says what was amiss.
    """

    def __init__(self) -> None:
        super().__init__()
        self.problem = ""

    def save_checkpoint(  # noqa: D102
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            self.problem = ""
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            reason = error.__context__ if isinstance(error.__context__, OSError) else error
            self.problem = f"{path} could not be written ({str(reason).splitlines()[0]})"
            logger.warning(
                "%s; %s", self.problem, "the previous one stays" if path.exists() else "there is none"
            )
        finally:
            partial.unlink(missing_ok=True)
