"""Speed, waiting, gradient norms and memory."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from distill.training import progress
from tests.distill.ddp_worker import make_batches, make_module
from tests.distill.training.logs import columns, train


def test_gradient_norms_of_the_parts(tmp_path):
    module, seen = make_module(dat=True), []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            student: Any = pl_module.student
            encoder = student.encoder
            others = [encoder.projection, encoder.position, encoder.norm, encoder.layers]
            parts = {"cnn": [encoder.cnn], "transformer": others, "heads": [student.heads]}
            seen.append(
                {
                    part: sum(float(p.grad.double().square().sum()) for m in models for p in m.parameters())
                    ** 0.5
                    for part, models in parts.items()
                }
            )

    train(tmp_path, module=module, extra=[Watch()], steps=2)
    found = columns(tmp_path)
    assert {part: found[f"gradient_norm_{part}"][1] for part in seen[1]} == pytest.approx(seen[1], rel=1e-5)
    total = sum(norm**2 for norm in seen[1].values()) ** 0.5
    assert found["gradient_norm"][1] == pytest.approx(total, rel=1e-5)


class Clock(pl.Callback):
    """Time that only passes where it is told to: 0.3 s a batch in the loader, then in the step."""

    def __init__(self, monkeypatch, step_s: list[float]):
        self.now, self.step_s = 0.0, step_s
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))

    def load(self, batches) -> Iterator[Any]:
        for batch in batches:
            self.now += 0.3
            yield batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += self.step_s[trainer.global_step]


class Loaded(torch.utils.data.IterableDataset):
    """Batches that take time to load."""

    def __init__(self, clock: Clock, batches):
        self.clock, self.batches = clock, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self):
        return self.clock.load(self.batches)


def test_share_of_the_time_that_training_waits_for_data(tmp_path, monkeypatch):
    clock = Clock(monkeypatch, [0.1, 0.1, 0.9, 0.9])
    train(tmp_path, steps=4, batches=Loaded(clock, make_batches(4)), extra=[clock])
    shares = columns(tmp_path)["data_wait_share"]
    assert shares == pytest.approx({1: 0.75, 3: 0.25})


def test_a_long_run_says_how_long_it_will_take(tmp_path, monkeypatch, capsys):
    """From the third step on: the first two are slow."""
    clock = Clock(monkeypatch, [50.0, 50.0] + [0.2] * 58)
    batches = make_batches(1, size=1) * 60
    train(tmp_path, steps=60, batches=Loaded(clock, batches), extra=[clock], module=make_module(dat=False))
    said = re.findall(r"^mini: about .*$", capsys.readouterr().err, re.MULTILINE)
    assert said == ["mini: about 30 s for 60 steps (0.50 s each)"]


def test_a_short_run_says_nothing_about_time(tmp_path, capsys):
    batches = make_batches(1, size=1) * 20
    train(tmp_path, steps=20, batches=batches, module=make_module(dat=False))
    assert "about" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(44.6, "45 s"), (60, "1 min"), (3599, "1 h 0 min"), (12_000, "3 h 20 min"), (90_000, "25 h 0 min")],
)
def test_durations_in_words(seconds, words):
    assert progress.in_words(seconds) == words


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_memory_is_the_resident_set():
    status = Path("/proc/self/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    assert progress.memory_gib(torch.device("cpu")) == pytest.approx(int(kib) / 2**20, rel=0.05)
