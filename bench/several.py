"""Cost of students that train together beside that of the same runs alone, on one CPU thread.

    python -m bench several

Teacher and students are of BASE size with random weights, the corpus is noise: batches of 4 x 4 s, setup2.
What is measured are whole training steps of `distill train`, data and logs included, without what comes
before the first and after the last: models, validation, checkpoints, release. Every round trains each student
alone, then some of them together; its ratio is the cost of these together over the sum of theirs alone.
Figures are the medians over the rounds and their range.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytorch_lightning as pl
import soundfile
import torch
from pytorch_lightning.callbacks import Callback
from typing_extensions import override

from bench import report
from bench.contenders import cpu_seconds
from distill.checkpoints import native
from distill.config import load
from distill.hubert import HubertEncoder
from distill.options import Recipe
from distill.training.several import train_several
from distill.training.trainer import make_trainer
from distill.waveforms import SAMPLE_RATE

BATCH, SECONDS, STEPS = 4, 4, 2
TOGETHER = {"two, s4 and s6": ("s4 0", "s6 0"), "three, s4 of two seeds and s6": ("s4 0", "s4 1", "s6 0")}
"""Recipes and seeds of the students that train together."""


class Stopwatch(Callback):
    """Notes the clocks, CPU and wall, when the second and the last batch begin."""

    def __init__(self, marks: list[tuple[int, float, float]]) -> None:
        self.marks = marks

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.marks.append((trainer.global_step, cpu_seconds(), time.perf_counter()))


def main(_: object = None, rounds: int = 7) -> None:
    """Print the table; the first argument is what other benchmarks need."""
    torch.set_num_threads(1)
    for name in ("pytorch_lightning", "lightning_fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    students = sorted({student for company in TOGETHER.values() for student in company})
    alone: dict[str, list[tuple[float, float]]] = {student: [] for student in students}
    joint: dict[str, list[tuple[float, float]]] = {name: [] for name in TOGETHER}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_corpus(data)
        for _round in range(rounds):
            for student in students:
                alone[student].append(cost([student], data))
            for name, company in TOGETHER.items():
                joint[name].append(cost(company, data))
    print(f"\n{STEPS} steps of {BATCH} x {SECONDS} s, BASE, one thread")
    print(f"median of {report.in_rounds(rounds)} (least to most)")
    for student, costs in alone.items():
        print(f"  {f'{student} alone: CPU seconds a step':<50}{spread([cpu for cpu, _ in costs])}")
    for name, company in TOGETHER.items():
        for clock, unit in enumerate(("CPU time", "wall time")):
            sums = [sum(alone[one][turn][clock] for one in company) for turn in range(rounds)]
            ratios = [costs[clock] / total for costs, total in zip(joint[name], sums, strict=True)]
            print(f"  {f'{name}: {unit} / alone':<50}{spread(ratios)}")


def cost(students: Sequence[str], data: Path) -> tuple[float, float]:
    """CPU and wall seconds a step, for all students."""
    marks: list[tuple[int, float, float]] = []

    def with_stopwatch(*args: Any, **options: Any) -> pl.Trainer:
        trainer: Any = make_trainer(*args, **options)
        trainer.callbacks.insert(0, Stopwatch(marks))
        return trainer

    with tempfile.TemporaryDirectory() as out:
        runs = [(recipe(student, data), Path(out) / student.replace(" ", "-")) for student in students]
        with patch("distill.training.train.make_trainer", with_stopwatch), redirect_stderr(StringIO()):
            train_several(runs)
    # From the first run's second step to its last: STEPS steps of every run lie between.
    (_, cpu, wall), (_, cpu_end, wall_end) = (
        next(mark for mark in marks if mark[0] == step) for step in (1, 1 + STEPS)
    )
    return (cpu_end - cpu) / STEPS, (wall_end - wall) / STEPS


def recipe(student: str, data: Path) -> Recipe:
    """Of a recipe's name and a seed."""
    name, seed = student.split()
    return load(
        name,
        [
            f"seed={seed}",
            "data.order_seed=0",
            f"teacher={data}/teacher",
            f"data.train=[{data}/train]",
            f"data.dev=[{data}/dev]",
            f"data.noises={{musan: [{data}/train]}}",
            f"data.dev_noises={{musan: [{data}/train]}}",
            "distortion.additive=[musan, gaussian, none]",
            f"data.batch_size={BATCH}",
            "data.workers=0",
            f"optim.max_steps={2 + STEPS}",
            "logging.wandb=off",
            "logging.audio_every_n_steps=0",
            "trainer.accelerator=cpu",
        ],
    )


def write_corpus(folder: Path) -> None:
    """A teacher, noise that plays speech and noise, and a second of it to validate on."""
    torch.manual_seed(0)
    native.write(HubertEncoder.from_preset("base"), folder / "teacher", {})
    rng = np.random.default_rng(0)
    for split, n_files, seconds in (("train", 4 * BATCH, SECONDS), ("dev", 1, 1)):
        (folder / split).mkdir()
        for index in range(n_files):
            samples = 0.1 * rng.standard_normal(seconds * SAMPLE_RATE)
            soundfile.write(folder / split / f"{index}.flac", samples, SAMPLE_RATE)


def spread(values: Sequence[float]) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):>8.3f}   ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
