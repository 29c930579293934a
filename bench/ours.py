"""A training step of this project: `Distillation` in Lightning's own loop, one step at a time.

Lightning's loop wants to run to its end; here it takes turns with others. It runs in a thread of its own and
waits for its next batch there.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl

from bench.batches import Speech
from bench.contenders import Run
from distill.batch import Batch, View
from distill.distillation import Distillation
from distill.distortions import CONDITIONS, Distorter, Plan
from distill.hubert import HubertEncoder
from distill.options import CDM, DatConfig
from distill.student import Student

N_PLANS = 4
"""Batches that differ in their distortions; they take turns."""
PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed"}
TARGETS = {"base": (4, 8, 12), "mini": (2, 4, 6)}


class Loop:
    """Lightning's training loop, one step at a time.

    Example:
        >>> loop = Loop(module, device="cpu", precision="fp32")
        >>> loop.step(batch)
    """

    def __init__(self, module: pl.LightningModule, *, device: str, precision: str):
        self.module = module
        self.todo: queue.Queue[Batch | Callable[[], object] | None] = queue.Queue()
        self.done: queue.Queue[BaseException | None] = queue.Queue()
        _quiet()
        self.trainer = pl.Trainer(
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=1,
            precision=PRECISION[precision],  # pyright: ignore[reportArgumentType]
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        threading.Thread(target=self._fit, daemon=True).start()
        self._wait()

    def step(self, batch: Batch) -> None:
        """Train on a batch that lies on the host; returns when the loop asks for the next one."""
        self.todo.put(batch)
        self._wait()

    def call(self, function: Callable[[], object]) -> None:
        """Call something between two steps, in the thread of the loop."""
        self.todo.put(function)
        self._wait()

    def close(self) -> None:
        """End the loop and let go of the models."""
        self.trainer.should_stop = True
        self.todo.put(None)
        self.done.get()
        del self.module, self.trainer

    def __len__(self) -> int:
        return 10**9  # with a length, Lightning does not fetch a batch ahead

    def __iter__(self) -> Iterator[Batch]:
        while True:
            self.done.put(None)
            given = self.todo.get()
            if given is None:
                return
            if isinstance(given, Batch):
                yield given
            else:
                given()

    def _fit(self) -> None:
        try:
            self.trainer.fit(self.module, train_dataloaders=self)
            self.done.put(None)
        except BaseException as error:  # told to who waits
            self.done.put(error)

    def _wait(self) -> None:
        error = self.done.get()
        if error is not None:
            raise error


def make_loop(
    speech: Speech, *, device: str, precision: str, preset: str = "base", cdm: str = "none", dat: bool = False
) -> tuple[Loop, Run]:
    """The loop, and a step of it on the batch; views are drawn beforehand, as by data workers."""
    teacher = HubertEncoder.from_preset(preset)
    student = Student.from_teacher(teacher, targets=TARGETS[preset])
    distorter = Distorter.from_config(CONDITIONS["2-dist"])
    module = Distillation(teacher, student, distorter, cdm=cdm, dat=DatConfig(enabled=dat))
    batches = itertools.cycle(make_batches(speech, distorter, cdm=cdm, pinned=device == "cuda"))
    loop = Loop(module, device=device, precision=precision)

    def run(number: int) -> None:
        loop.step(next(batches))

    return loop, run


def make_batches(speech: Speech, distorter: Distorter, *, cdm: str, pinned: bool) -> list[Batch]:
    """Batches as the data loader gives them; of recorded noise, stretches of the utterances' lengths."""
    ids = [str(row) for row in range(len(speech.lengths))]
    streams = sorted({view for view in CDM[cdm] if view})
    batches = []
    for number in range(N_PLANS if streams else 1):
        views = {}
        for stream in streams:
            plan = distorter.plan(ids, epoch=number, stream=stream)
            views[stream] = View(plan, noises(plan, speech), [None] * len(ids))
        batch = Batch(ids, speech.waveforms, speech.lengths, views)
        batches.append(batch.pin_memory() if pinned else batch)
    return batches


def noises(plan: Plan, speech: Speech) -> list[Any]:
    """For each utterance that hears a noise corpus: another utterance of the batch."""
    waves = speech.waveforms.flip(0)
    return [
        waves[row, :n_samples].clone() if one.noise_corpus else None
        for row, (one, n_samples) in enumerate(zip(plan, speech.lengths.tolist(), strict=True))
    ]


def _quiet() -> None:
    """Nothing of Lightning's about devices and data workers."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r".*lightning.*")
