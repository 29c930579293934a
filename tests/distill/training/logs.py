"""Runs of a tiny model with the loggers and callbacks of real runs, and reading their CSV logs."""

import csv
from pathlib import Path
from typing import Any, cast

from torch.utils.data import DataLoader

from distill.config import load
from distill.options import Recipe
from distill.training import trainer as training
from distill.training.run_folder import RunFolder
from tests.distill.ddp_worker import make_batches, make_module

STEPS = 6


def recipe(*changes: str, steps: int = STEPS) -> Recipe:
    made = [f"optim.max_steps={steps}", f"validation.every_n_steps={steps}", "logging.wandb=off"]
    return load("mini", [*made, "logging.every_n_steps=2", "trainer.accelerator=cpu", *changes])


def train(out: Path, *changes: str, steps: int = STEPS, batches: Any = None, module: Any = None, **more: Any):
    """A run of the tiny model with the loggers and callbacks of real runs."""
    out.mkdir(exist_ok=True)
    trainer: Any = training.make_trainer(recipe(*changes, steps=steps), RunFolder(out))
    trainer.callbacks[:0] = more.get("extra", [])
    speech, dev = cast(Any, (batches or make_batches(steps), make_batches(1)))
    loaders = [DataLoader(part, batch_size=None) for part in (speech, dev)]
    trainer.fit(module or make_module(dat=True), *loaders)
    return trainer


def columns(out: Path) -> dict[str, dict[int, float]]:
    """The CSV log: values by metric and step."""
    found: dict[str, dict[int, float]] = {}
    with (out / "csv" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for key in row.keys() - {"step", "epoch"}:
                if row[key]:
                    found.setdefault(key, {})[int(row["step"])] = float(row[key])
    return found
