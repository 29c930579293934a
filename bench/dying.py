"""A training that kills itself at a given place, for `bench.resume`.

    python -m bench.dying NOTES PLACE STEP train mini --out RUN

It is the command line in a process of its own, with one callback more. NOTES is a file that gets a JSON line
for the start of training, one for each step with the utterances of its batch, and one for the death.
"""

from __future__ import annotations

import json
import os
import random
import runpy
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from typing_extensions import override

PLACES = ("step", "validation", "saving", "moment")
"""Before the update of a step, in a validation, while `last.ckpt` is written, at some moment of a step."""


def started_ago() -> float:
    """Seconds since this process was started."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
        return uptime - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, IndexError):
        return float("nan")


class Death(pl.Callback):
    """Kills this process at a place, at a step or as soon after it as the place comes.

    Args:
        notes: file to tell it in.
        place: one of `PLACES`, or "never".
        step: updates that were made.
    """

    def __init__(self, notes: Path, place: str, step: int):
        self.notes, self.place, self.step = notes, place, step
        self.trainer: Any = None

    def note(self, **what: Any) -> None:
        """Add a line, which is on the disk when this returns."""
        with self.notes.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def die(self, place: str) -> None:
        """Now, if this is the place."""
        if place == self.place and self.trainer.global_step >= self.step:
            self.note(died=self.trainer.global_step, place=place)
            os.kill(os.getpid(), signal.SIGKILL)

    @override
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.trainer = trainer
        self.note(began=trainer.global_step, after_s=started_ago(), at=time.time())

    @override
    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.place == "moment" and trainer.global_step >= self.step:
            threading.Timer(random.uniform(0.0, 0.3), self.die, ["moment"]).start()

    @override
    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.note(step=trainer.global_step, epoch=batch.position[0], ids=batch.ids)

    @override
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.die("step")

    @override
    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.die("validation")


def main(arguments: list[str]) -> None:
    """Train until death, or to the end."""
    notes, place, step, *words = arguments
    death = Death(Path(notes), place, int(step))
    from distill import atomic
    from distill.adaptation import run as adaptation
    from distill.downstream import evaluate
    from distill.pretraining import run as pretraining
    from distill.training import train

    made, flush = train.make_trainer, atomic.flush

    def make_trainer(*args: Any, **kwargs: Any) -> Any:
        trainer: Any = made(*args, **kwargs)
        trainer.callbacks.insert(0, death)
        return trainer

    def dying_flush(path: Path) -> None:
        if path.name.endswith(".last.ckpt"):  # written under another name, not yet under its own
            death.die("saving")
        flush(path)

    atomic.flush = dying_flush
    for module in (train, adaptation, pretraining, evaluate):
        setattr(module, "make_trainer", make_trainer)  # noqa: B010
    sys.argv = ["distill", *words]
    runpy.run_module("distill", run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
