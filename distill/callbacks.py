"""What a long run shows and how it ends."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from tqdm import tqdm

from distill.batch import Batch
from distill.errors import UserError
from distill.hubert import SAMPLE_RATE


class Interrupted(UserError):
    """The run was told to stop; everything is saved."""

    def __init__(self, signum: int, checkpoint: Path):
        name = signal.Signals(signum).name
        super().__init__(
            f"stopped by {name}; saved {checkpoint}: go on with --resume {checkpoint.parents[1]}"
        )
        self.exit_code = 128 + signum  # 130 for Ctrl-C, 143 for SIGTERM


class StepProgress(Callback):
    """One bar over all steps: loss, seconds of audio per second, time left. Validation losses as lines."""

    def __init__(self, name: str):
        self.name = name
        self.bar: Any = None
        self.audio_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.started, self.audio_s = time.monotonic(), 0.0
        self.bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            desc=self.name,
            unit="step",
            dynamic_ncols=True,
            disable=None if trainer.is_global_zero else True,  # None: no bar where stderr is not a terminal
        )

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.audio_s += float(batch.lengths.sum()) / SAMPLE_RATE * trainer.world_size
        speed = self.audio_s / (time.monotonic() - self.started)
        every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if trainer.global_step % every == 0:
            pl_module.log("audio_s_per_s", speed)
        if not self.bar.disable:
            loss = trainer.callback_metrics.get("train/loss")
            shown = {} if loss is None else {"loss": f"{float(loss):.3f}"}
            self.bar.set_postfix(shown | {"audio": f"{speed:.0f}x"}, refresh=False)
        self.bar.update()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        if trainer.is_global_zero and self.bar is not None:
            values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            shown = ", ".join(f"{name.removeprefix('val/')} {value:.4f}" for name, value in values.items())
            self.bar.write(f"{self.name} step {trainer.global_step}: dev {shown}", file=sys.stderr)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        self.bar.close()

    def on_exception(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        if self.bar is not None:
            self.bar.close()


class GracefulStop(Callback):
    """Ctrl-C and SIGTERM finish the step, save `last.ckpt`, then stop; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received = 0
        self.previous: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        for signum in (signal.SIGINT, signal.SIGTERM):
            self.previous[signum] = signal.getsignal(signum)
            signal.signal(signum, self._note)

    def _note(self, signum: int, _: Any) -> None:
        if self.received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signum

    def on_train_batch_end(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        received = self.received
        if trainer.world_size > 1:  # all processes must save together
            agreed = torch.tensor(received, device=pl_module.device)
            torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MAX)
            received = int(agreed)
        if received:
            path = save_last(trainer)
            raise Interrupted(received, path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: D102
        save_last(trainer)
        self._restore()

    def on_exception(  # noqa: D102
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self.previous.items():
            signal.signal(signum, handler)
        self.previous = {}


def save_last(trainer: pl.Trainer) -> Path:
    """Write `last.ckpt` beside the best checkpoint."""
    callback = trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint) and callback.dirpath
    path = Path(callback.dirpath) / "last.ckpt"
    trainer.save_checkpoint(path)
    return path
