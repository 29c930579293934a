"""Students that train together are equal to those that train alone, bit by bit."""

import csv
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from distill.checkpoints import native
from distill.distillation import Distillation
from distill.errors import UserError
from distill.hubert import HubertEncoder
from distill.options import Recipe
from distill.run import run
from distill.training.faults import NotFinite
from distill.training.several import AllStopped, Job, SomeFailed, groups_of, planned, train_several
from tests.distill.training.runs import add_callback, differs, interrupt, tiny, weights

pytestmark = pytest.mark.slow

TIMES = {"audio_s_per_s", "mfu", "data_wait_share", "memory_gib"}
"""Metrics of the machine, not of the model."""
SETTINGS = ("data.batch_size=5", "validation.every_n_steps=2", "optim.lr=1e-3")  # three batches an epoch
EVERY_5 = ("validation.every_n_steps=5",)


def rows(out: Path) -> list[dict[str, str]]:
    """The CSV log, without what the clock says."""
    with (out / "csv" / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def equal_runs(a: Path, b: Path) -> bool:
    same = all(differs(weights(a, file), weights(b, file)) == 0 for file in ("last", "best"))
    released = (a / "student.safetensors").read_bytes() == (b / "student.safetensors").read_bytes()
    return same and released and rows(a) == rows(b)


@pytest.fixture
def passes(monkeypatch) -> list[bool]:
    """One entry for each pass of a teacher: whether it was for training."""
    heard = []
    features = Distillation.teacher_features

    def count(self, waveforms, lengths):
        heard.append(self.trainer.training)
        return features(self, waveforms, lengths)

    monkeypatch.setattr(Distillation, "teacher_features", count)
    return heard


def made(data: Path, *more: str, name: str = "s4", steps: int = 5) -> Recipe:
    return tiny(data, *SETTINGS, *more, name=name, steps=steps)


def together(folder: Path, *recipes: Recipe) -> list[tuple[Recipe, Path]]:
    """The runs, in folders named by recipe and seed."""
    return [(recipe, folder / f"{recipe.name}-{recipe.seed}") for recipe in recipes]


@pytest.mark.parametrize("options", [["data.workers=0"], ["data.workers=2", "distortion.where=workers"]])
def test_students_of_one_pass_are_those_that_train_alone(mini_data, tmp_path, options):
    recipes = [made(mini_data, *options, name=name) for name in ("s1", "s2", "s3", "s4", "s6")]
    alone, joint = together(tmp_path / "alone", *recipes), together(tmp_path / "joint", *recipes)
    for recipe, out in alone:
        run(recipe, out)
    assert train_several(joint) == [out / "student.safetensors" for _, out in joint]
    for (_, one), (_, other) in zip(joint, alone, strict=True):
        assert equal_runs(one, other)


def test_the_teacher_hears_each_batch_once(mini_data, tmp_path, passes):
    recipes = [made(mini_data, *EVERY_5, name=name) for name in ("s4", "s6")]
    train_several(together(tmp_path, *recipes))
    n_dev = passes.count(False)
    assert passes.count(True) == 5
    train_several(together(tmp_path / "more", *recipes, made(mini_data, *EVERY_5, name="s2")))
    assert passes.count(True) == 5 + 2 * 5  # clean and distorted
    assert passes.count(False) == 2 * n_dev  # clean speech was heard in both


def test_one_pass_of_the_teacher_serves_all_depths_and_terms(mini_data, tmp_path, passes, capfd):
    options = ([], ["student.targets=[2,3]"], ["student.targets=[1]", "objective.relations.weight=1"])
    options = (*options, ["student.front=mel", "student.layers=6", "student.targets=all"])
    runs = [
        (made(mini_data, *more, *EVERY_5, f"name=run{number}", name="s4"), f"run{number}")
        for number, more in enumerate(options)
    ]
    train_several([(recipe, tmp_path / "joint" / name) for recipe, name in runs])
    assert passes.count(True) == 5
    assert "run3: 1 reading of the data, 1 pass of the teacher a step" in capfd.readouterr().err
    for recipe, name in runs:
        run(recipe, tmp_path / "alone" / name)
        assert equal_runs(tmp_path / "joint" / name, tmp_path / "alone" / name)


def test_seeds_share_a_pass_if_the_order_of_the_data_is_fixed(mini_data, tmp_path, passes):
    """With micro-batches of its own each; the mini teacher is random, but from a file the same."""
    native.write(HubertEncoder.from_preset("mini"), tmp_path / "teacher", {})
    options = [f"teacher={tmp_path}/teacher", "data.order_seed=7"]
    recipes = [made(mini_data, *options, f"seed={seed}", name="s6") for seed in (0, 1)]
    recipes.append(made(mini_data, *options, "seed=2", "optim.accumulate=2", name="s4"))
    for recipe, out in together(tmp_path / "alone", *recipes):
        run(recipe, out)
    del passes[:]
    train_several(together(tmp_path / "joint", *recipes))
    assert passes.count(True) == 5 + 2 * 5
    for (_, one), (_, other) in zip(
        together(tmp_path / "joint", *recipes), together(tmp_path / "alone", *recipes), strict=True
    ):
        assert equal_runs(one, other)
    assert differs(weights(tmp_path / "joint" / "s6-0"), weights(tmp_path / "joint" / "s6-1")) > 0


def test_runs_are_grouped_by_data_order_teacher_and_step(mini_data):
    def job(*more: str, name: str = "s4", step: int | None = 0) -> Job:
        recipe: Any = made(mini_data, *more, name=name)
        return Job(recipe, Path(f"{name}{more}"), step)

    same = [job(), job(name="s6"), job(name="s1"), job("data.order_seed=0"), job("optim.lr=1e-4")]
    seeds = [job("seed=1"), job("seed=2", "data.order_seed=1")]
    others = [
        *(job("data.batch_size=3"), job("distortion.snr_db=[0,5]"), job("teacher=random:base")),
        *(job("distortion.curriculum=0.5"), job("distortion.curriculum=0.5", "optim.max_steps=9")),
        *(job("trainer.precision=bf16-mixed"), job(step=3), job(step=None), job(name="s6", step=None)),
    ]
    assert groups_of([*same, *seeds, *others]) == [same, seeds, *([other] for other in others)]


class Breaks(pl.Callback):
    """Ends runs of one recipe at a step."""

    def __init__(self, name: str, step: int, error: Exception) -> None:
        self.name, self.step, self.error = name, step, error

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.default_root_dir.endswith(f"/{self.name}-0") and trainer.global_step == self.step:
            raise self.error


@pytest.mark.parametrize("error", [NotFinite("broke down"), MemoryError("none left")])
def test_a_run_that_fails_does_not_stop_the_others(mini_data, tmp_path, monkeypatch, capfd, error):
    recipes = [made(mini_data, name=name) for name in ("s2", "s4", "s6")]
    run(recipes[2], tmp_path / "alone")
    with monkeypatch.context() as patch:
        add_callback(patch, Breaks("s2", 3, error))
        with pytest.raises(SomeFailed, match=r"^1 of 3 runs failed: .*s2-0; the same command") as failed:
            train_several(together(tmp_path, *recipes))
    assert failed.value.exit_code == 1
    said = capfd.readouterr().err
    assert said.count(f"distill: {tmp_path}/s2-0: {error}\n") == 2  # at once, and in the end
    assert equal_runs(tmp_path / "s6-0", tmp_path / "alone")
    # Continued from its last validation, without the others, which are finished.
    run(recipes[0], tmp_path / "alone2")
    train_several(together(tmp_path, *recipes))
    assert differs(weights(tmp_path / "s2-0"), weights(tmp_path / "alone2")) == 0
    assert capfd.readouterr().err.count("is finished already") == 2


@pytest.mark.parametrize("step", [2, 3])
def test_a_signal_stops_all_and_the_same_command_continues_them(
    mini_data, tmp_path, monkeypatch, capfd, step
):
    """Before a validation (2) and at the end of an epoch (3): all stop at the same step."""
    recipes = [made(mini_data, name=name) for name in ("s4", "s6")]
    others = [made(mini_data, "seed=1", name="s4")]
    with monkeypatch.context() as patch:
        interrupt(patch, step, signal.SIGTERM)
        with pytest.raises(AllStopped, match="^stopped by SIGTERM: give the same command again") as stopped:
            train_several(together(tmp_path, *recipes, *others))
    assert stopped.value.exit_code == 143
    assert "SIGTERM: saving all runs after this step" in capfd.readouterr().err
    for name in ("s4-0", "s6-0"):
        last = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == step
    assert not (tmp_path / "s4-1").exists()
    train_several(together(tmp_path, *recipes, *others))
    assert "together: s4-0, s6-0" in capfd.readouterr().err
    for recipe, out in together(tmp_path, *recipes, *others):
        run(recipe, tmp_path / "alone" / out.name)
        assert differs(weights(out), weights(tmp_path / "alone" / out.name)) == 0
    train_several(together(tmp_path, *recipes, *others))
    assert capfd.readouterr().err.count("is finished already") == 3


def test_what_cannot_be_trained_together_is_said(mini_data, tmp_path):
    s4 = made(mini_data)
    run(s4, tmp_path / "s4-0")
    run(s4, tmp_path / "s4-1")
    (tmp_path / "s4-1" / "recipe.yaml").unlink()
    cases = [
        ([made(mini_data, "seed=1")], "s4-1 is not a run folder: it has no recipe.yaml"),
        ([s4, made(mini_data, "seed=0")], "two recipes are named s4: both runs would be "),
        ([made(mini_data, name="spiral_mini")], "spiral_mini makes no student"),
        ([made(mini_data, "trainer.devices=2")], "one device: set trainer.devices=1"),
        ([made(mini_data, "trainer.strategy=ddp")], "leave out trainer.strategy"),
        ([made(mini_data, "optim.lr=1")], r"s4-0 was made with other settings \(optim.lr: 0.001 -> 1.0\)"),
    ]
    for recipes, message in cases:
        with pytest.raises(UserError, match=message):
            planned(together(tmp_path, *recipes))


def test_data_that_is_missing_is_said_before_anything_is_trained(mini_data, tmp_path):
    runs = together(
        tmp_path, made(mini_data, name="s2"), made(mini_data, "data.train=[nowhere.tsv]", name="s4")
    )
    with pytest.raises(UserError, match=r"^s4: data\.train: .*nowhere\.tsv"):
        train_several(runs)
    assert not list(tmp_path.iterdir())
