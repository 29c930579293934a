"""The whole training step on torch's `meta` device, which stands for a GPU: the host never waits for it.

From the next batch to the last callback, by Lightning's own loop, between two log lines. What the real step
does beside: autocast, which `meta` does not know, and the kernel of AdamW, which it does not have.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from torch.utils.data import DataLoader, IterableDataset
from typing_extensions import override

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.batch import Batch
from distill.hubert import HubertEncoder
from distill.optim import OptimConfig
from distill.pretraining.spiral import SpiralPretraining
from distill.spiral import SpiralEncoder
from distill.training import faults
from distill.training.run_folder import RunFolder
from distill.training.trainer import make_trainer
from tests.distill.ddp_worker import SMALL, SPIRAL, make_batches, make_module
from tests.distill.training.logs import recipe
from tests.rehearsal import HiddenWait, rehearsal

STEPS = 3


class Done(Exception):
    """So many steps have been rehearsed: nothing could be saved."""


class Steps(pl.Callback):
    """Ends a run after so many steps."""

    now = 0

    def on_train_batch_start(self, *_):
        Steps.now += 1

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == STEPS:
            raise Done


class Later(faults.Later):
    """A number that is read a step after it was made, when it has long been on its way."""

    def __init__(self, value):
        assert value.is_meta and not value.dim()
        self.made = Steps.now

    def read(self):
        assert self.made == Steps.now - 1
        return 0.0


def fake_kernel(params, grads, *_, found_inf, **__):
    """AdamW's: all of it is on the device."""
    assert params and all(x.is_meta for x in (*params, *grads, found_inf))


class Stream(IterableDataset):
    """Batches without a number of them, of which Lightning would make a tensor of the device."""

    def __init__(self, batches: list[Batch]):
        self.batches = batches

    @override
    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """A function that lets a module train on `meta`, and says what ran there in each step."""

    def run(module: pl.LightningModule, batches: list[Batch], *changes: str) -> list[Any]:
        seen: list[Any] = []
        advance = _TrainingEpochLoop.advance

        def rehearsed(self: Any, fetcher: Any) -> None:
            with rehearsal() as step:
                advance(self, fetcher)
            seen.append(step)

        trainer: Any = make_trainer(
            recipe("logging.every_n_steps=1000", *changes, steps=9), RunFolder(tmp_path)
        )
        trainer.strategy._root_device = torch.device("meta")
        trainer.callbacks.append(Steps())
        for target, value in {
            "lightning_fabric.accelerators.cpu.CPUAccelerator.setup_device": lambda *_: None,
            "pytorch_lightning.accelerators.cpu.CPUAccelerator.setup_device": lambda *_: None,
            "distill.training.faults.Later": Later,
        }.items():
            monkeypatch.setattr(target, value)
        monkeypatch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_: None)
        monkeypatch.setattr(torch, "_fused_adamw_", fake_kernel)
        monkeypatch.setattr(_TrainingEpochLoop, "advance", rehearsed)
        monkeypatch.setattr(trainer.strategy, "teardown", lambda: None)  # there is nothing to bring back
        with pytest.raises(Done):
            trainer.fit(module, DataLoader(Stream(batches), batch_size=None))
        return seen

    return run


def full(batches: list[Batch]) -> Iterator[Batch]:
    """The same without padding."""
    for batch in batches:
        shortest = int(batch.lengths.min())
        lengths = torch.full_like(batch.lengths, shortest)
        yield Batch(batch.ids, batch.waveforms[:, :shortest].clone(), lengths, batch.views)


@pytest.mark.parametrize("cdm", ["none", "setup1", "setup2", "setup2_same"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dat", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_step_of_distillation_never_waits(rehearse, cdm, accumulate, dat, padded):
    if dat and cdm == "none":
        return
    module = make_module(dat, accumulate, cdm=cdm)
    batches = make_batches(STEPS + 1)
    rehearse(module, batches if padded else list(full(batches)))


@pytest.mark.parametrize("size", ["large", "spiral"])
def test_nor_do_other_architectures(rehearse, size):
    module = make_module(True, 1, size, dropout=0.1)
    rehearse(module, make_batches(STEPS + 1))


def test_a_step_of_masked_prediction_never_waits(rehearse):
    encoder = HubertEncoder.from_preset("mini", **SMALL)
    module = MaskedPrediction(encoder, 5, optim=OptimConfig(max_steps=9, accumulate=2), final_dim=16)
    batches = make_batches(STEPS + 1)
    for batch in batches:
        frames = encoder.config.frames(batch.waveforms.shape[1])
        batch.targets = torch.zeros(len(batch), frames, dtype=torch.int64)
    rehearse(module, batches)


def test_a_step_of_spiral_never_waits(rehearse):
    encoder = SpiralEncoder.from_preset("mini", **SPIRAL)
    rehearse(SpiralPretraining(encoder, optim=OptimConfig(max_steps=9)), make_batches(STEPS + 1))


def test_a_wait_is_found(rehearse, monkeypatch):
    """What the others rely on."""
    module = make_module(False, cdm="none")
    monkeypatch.setattr(module, "_collect", lambda parts: float(parts["train/loss"]))
    with pytest.raises(HiddenWait):
        rehearse(module, make_batches(STEPS + 1))
