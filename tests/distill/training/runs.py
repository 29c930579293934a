"""Short runs of recipes, and looking into them, for the tests of training."""

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from distill.config import load
from distill.options import Recipe
from distill.run import run
from distill.training import trainer as trainer_module
from distill.training.stopping import Interrupted


def overrides(data: Path, *more: str, name: str = "s4", steps: int = 2) -> list[str]:
    """What makes a recipe run in half a second on a CPU."""
    noises = {
        split: f"{{musan: [{data}/musan_{split}.jsonl.gz], wham: [{data}/wham_{split}.jsonl.gz], "
        f"dns: [{data}/musan_{split}.jsonl.gz]}}"
        for split in ("train", "dev")
    }
    made = [
        f"optim.max_steps={steps}",
        f"validation.every_n_steps={steps}",
        f"data.train=[{data}/speech_train.jsonl.gz]",
        f"data.dev=[{data}/speech_dev.jsonl.gz]",
        f"data.noises={noises['train']}",
        f"data.dev_noises={noises['dev']}",
        "data.workers=0",
        "data.batch_size=4",
        "data.max_samples=16000",
        "teacher=random:mini",
        "logging.wandb=off",
        "logging.every_n_steps=1",
        "trainer.accelerator=cpu",
    ]
    kind = load(name).kind
    if kind == "spiral" or name.startswith("s4_spiral"):
        made += ["teacher=random:spiral_mini", "data.min_samples=0"]
    if name.endswith("_wavlm"):
        made += ["teacher=random:wavlm_mini"]
    if kind == "spiral":
        made += ["heads.dim=16", "ema.steps=null"]
    if kind == "distil":
        made += [f"student.targets={'[1,3,4]' if name.startswith('s4_spiral') else '[2,4,6]'}"]
    if load(name).kind == "adapt":
        made += ["targets.clusters=10", "targets.codebook=null", "targets.folder=null"]
        made += ["data.batch_seconds=null"]
    if name in ("t1_prime", "hubert_base_it2", "mini_teacher_it2"):
        made += ["targets.layer=3"]
    return [*made, *more]


def tiny(data: Path, *more: str, name: str = "s4", steps: int = 2) -> Recipe:
    """A recipe with these `overrides`."""
    return load(name, overrides(data, *more, name=name, steps=steps))


def log(out: Path) -> dict[str, list[float]]:
    """Logged values by metric."""
    columns: dict[str, list[float]] = {}
    with (out / "csv" / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value:
                    columns.setdefault(key, []).append(float(value))
    return columns


def differs(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference between weights of the same names."""
    assert a.keys() == b.keys()
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


def weights(out: Path, file: str = "last") -> dict[str, torch.Tensor]:
    """Of the student and the classifier in a Lightning checkpoint."""
    return torch.load(out / "checkpoints" / f"{file}.ckpt", weights_only=True)["state_dict"]


STEADY = (
    "optim.lr=1e-3",
    "data.batch_size=5",  # 12 utterances: three batches an epoch
    "validation.every_n_steps=4",
)


class StopAt(pl.Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, step: int, signum: int):
        self.step, self.signum = step, signum

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == self.step - 1:
            os.kill(os.getpid(), self.signum)


def interrupt(monkeypatch, step: int, signum: int) -> None:
    """Let the next run get a signal during that step."""
    add_callback(monkeypatch, StopAt(step, signum))


def add_callback(monkeypatch, callback: pl.Callback) -> None:
    """Let the trainers of the next runs have one more callback, before all others."""
    made = trainer_module.make_trainer

    def make_trainer(*args, **kwargs):
        trainer: Any = made(*args, **kwargs)
        trainer.callbacks.insert(0, callback)
        return trainer

    monkeypatch.setattr("distill.training.train.make_trainer", make_trainer)
    monkeypatch.setattr("distill.adaptation.run.make_trainer", make_trainer)


def in_rooms(data: Path, rooms: Path | str) -> list[str]:
    """What gives every utterance a room."""
    noises = f"{{musan: [{data}/musan_train.jsonl.gz], rir: [{rooms}]}}"
    options = [f"data.{key}={noises}" for key in ("noises", "dev_noises")]
    return [*options, "distortion.additive=[musan]", "distortion.rir=true"]


def log_lines(out: Path, metric: str) -> list[tuple[int, float]]:
    """Step and value of all log lines since the run was started or resumed."""
    with (out / "csv" / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]


def same_run(a: Path, b: Path, after: int, validated: bool = False) -> bool:
    """Whether a, stopped after that step, ended as b, which never was: weights, best weights and logs."""
    assert all(differs(weights(a, file), weights(b, file)) < 1e-7 for file in ("last", "best"))
    losses = log_lines(b, "train/loss")[after:]
    assert log_lines(a, "train/loss") == losses
    first = after if validated else after - 1  # Lightning logs with the number of the update before
    return log_lines(a, "val/loss") == [line for line in log_lines(b, "val/loss") if line[0] >= first]


def set_score(path: Path, score: float) -> None:
    """Let a checkpoint say that it is this good."""
    checkpoint = torch.load(path, weights_only=True)
    (state,) = (s for key, s in checkpoint["callbacks"].items() if key.startswith("ModelCheckpoint"))
    state["best_model_score"] = torch.tensor(score)
    torch.save(checkpoint, path)


def whole_and_in_parts(recipe: Recipe, folder: Path, monkeypatch, step: int) -> tuple[Path, Path]:
    """A run, and the same one stopped by Ctrl-C after a step and resumed: their folders."""
    whole, parts = folder / "whole", folder / "parts"
    run(recipe, whole)
    with monkeypatch.context() as patch:
        interrupt(patch, step, signal.SIGINT)
        with pytest.raises(Interrupted):
            run(recipe, parts)
    run(load(str(parts / "recipe.yaml")), parts, resume=True)
    return whole, parts
