"""Whole runs on the tiny corpora: every recipe, the run folder, interruption and resuming."""

import csv
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lhotse import CutSet

from distill.checkpoints import inspect, load_student, load_teacher
from distill.config import load, recipe_names
from distill.data.datamodule import SpeechData
from distill.data_prep import CORPORA
from distill.errors import ConfigError, DataError, UserError
from distill.options import DistillRecipe, Recipe
from distill.run import run
from distill.training import trainer as trainer_module
from distill.training.stopping import Interrupted
from tests.paths import ROOT


def overrides(data: Path, *more: str, name: str = "s4", steps: int = 2) -> list[str]:
    """What makes a recipe run in half a second on a CPU."""
    noises = {
        split: f"{{musan: [{data}/musan_{split}.jsonl.gz], wham: [{data}/wham_{split}.jsonl.gz]}}"
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
    if load(name).kind == "distil":
        made += ["student.targets=[2,4,6]"]
    if load(name).kind == "adapt":
        made += ["targets.clusters=10", "targets.codebook=null", "targets.folder=null"]
        made += ["data.batch_seconds=null"]
    if name in ("t1_prime", "hubert_base_it2", "mini_teacher_it2"):
        made += ["targets.layer=3"]
    return [*made, *more]


def tiny(data: Path, *more: str, name: str = "s4", steps: int = 2) -> Recipe:
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
    assert a.keys() == b.keys()
    return max((a[name].float() - b[name].float()).abs().max().item() for name in a)


def weights(out: Path, file: str = "last") -> dict[str, torch.Tensor]:
    """Of the student and the classifier in a Lightning checkpoint."""
    return torch.load(out / "checkpoints" / f"{file}.ckpt", weights_only=True)["state_dict"]


# --------------------------------------------------------------------------------------------- every recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains(mini_data, tmp_path, name):
    if load(name).kind == "teacher":
        return  # nothing is trained: see below
    recipe = tiny(mini_data, name=name)
    released = run(recipe, tmp_path)
    values = log(tmp_path)
    assert len(values["train/loss"]) == 2
    assert all(torch.isfinite(torch.tensor(v)).all() for v in values.values())
    model = load_student(tmp_path) if recipe.kind == "distil" else load_teacher(tmp_path)
    assert released == tmp_path / f"{'student' if recipe.kind == 'distil' else 'teacher'}.safetensors"
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert ("dat/loss" in values) == (name in ("s5", "s5_prime", "s6", "s6_prime"))
    if isinstance(recipe, DistillRecipe):
        assert {"train/l1_layer2", "train/cosine_layer6", "val/loss", "val/loss_clean", "lr"} <= values.keys()
        # Clean speech for both is what plain DistilHuBERT validates on.
        assert (values["val/loss"] == values["val/loss_clean"]) == (recipe.cdm == "none")


def test_the_row_of_the_teacher_makes_a_release(mini_data, tmp_path):
    torch.manual_seed(5)
    released = run(load("t1", ["teacher=random:mini"]), tmp_path)
    assert released == tmp_path / "teacher.safetensors"
    torch.manual_seed(5)
    expected = load_teacher("random:mini").state_dict()
    assert differs(load_teacher(tmp_path).state_dict(), expected) == 0
    assert inspect(tmp_path).provenance["recipe"] == "t1"
    # The next row takes it from there.
    run(tiny(mini_data, f"teacher={tmp_path}", name="s1"), tmp_path / "student")
    start = load_student(tmp_path / "student").encoder.state_dict()
    assert differs(start, {name: expected[name] for name in start}) < 1e-3  # two steps of warm-up away


# ------------------------------------------------------------------------------------------- the run folder


@pytest.fixture(scope="module")
def finished(mini_data, tmp_path_factory) -> Path:
    """A run of eight steps with DAT, validated every other step."""
    out = tmp_path_factory.mktemp("runs") / "s6"
    run(tiny(mini_data, "validation.every_n_steps=2", "seed=3", name="s6", steps=8), out)
    return out


def test_what_a_run_folder_holds(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names >= {
        "recipe.yaml",
        "versions.json",
        "finished.json",
        "csv/metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "student.safetensors",
        "student.json",
    }
    assert any(name.startswith("tensorboard/events") for name in names)
    versions = json.loads((finished / "versions.json").read_text())
    assert versions["torch"] == version("torch") and versions["git"]
    assert load(str(finished / "recipe.yaml")).seed == 3
    assert json.loads((finished / "finished.json").read_text())["steps"] == 8


def test_nothing_in_a_run_needs_unpickling_beyond_tensors(finished):
    for file in ("last", "best"):
        checkpoint = torch.load(finished / "checkpoints" / f"{file}.ckpt", weights_only=True)
        assert not any(name.startswith("teacher.") for name in checkpoint["state_dict"])


def test_the_release_is_the_checkpoint_with_the_lowest_dev_loss(finished):
    losses = log(finished)["val/loss"]
    assert len(losses) == 4
    best = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2 * (losses.index(min(losses)) + 1)
    expected = {
        name.removeprefix("student."): value
        for name, value in best["state_dict"].items()
        if name.startswith("student.")
    }
    assert differs(load_student(finished).state_dict(), expected) == 0
    assert inspect(finished).provenance["step"] == best["global_step"]
    assert inspect(finished).provenance["recipe"] == "s6"


def test_a_step_is_logged_with_what_made_it(finished):
    values = log(finished)
    assert len(values["train/loss"]) == len(values["dat/loss"]) == len(values["gradient_norm"]) == 8
    expected = [load("s6", ["optim.max_steps=8"]).optim.schedule(update) * 2e-4 for update in range(1, 9)]
    assert values["lr"] == pytest.approx(expected)
    total = torch.tensor(values["train/l1"]) + torch.tensor(values["train/cosine"])
    torch.testing.assert_close(torch.tensor(values["train/loss"]), total)


@pytest.mark.parametrize("name", ["s4", "mini_teacher"])
def test_validations_are_counted_in_updates(mini_data, tmp_path, name):
    """With micro-batches too, whether they are ours or Lightning's."""
    options = ["optim.accumulate=2", "validation.every_n_steps=2", "data.batch_size=3"]  # 4 batches an epoch
    run(tiny(mini_data, *options, name=name, steps=4), tmp_path)
    values = log(tmp_path)
    assert len(values["val/loss"]) == 2
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 4


def test_a_run_is_not_written_over(finished, mini_data):
    before = (finished / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=rf"holds a run already: continue with --resume {finished}"):
        run(tiny(mini_data, name="s1"), finished)
    assert (finished / "recipe.yaml").read_text() == before


def test_a_start_that_failed_does_not_block_the_next(mini_data, tmp_path):
    with pytest.raises(ConfigError, match="trainer"):
        run(tiny(mini_data, "logging.wandb=offline", "trainer.precision=fp8"), tmp_path / "run")
    run(tiny(mini_data, steps=1), tmp_path / "run")
    assert (tmp_path / "run" / "student.safetensors").exists()


def test_nothing_to_resume(mini_data, tmp_path):
    with pytest.raises(UserError, match="has no checkpoints/last.ckpt to resume from"):
        run(tiny(mini_data), tmp_path, resume=True)


def test_a_finished_run_is_resumed_to_no_effect(finished):
    before = weights(finished), load_student(finished).state_dict()
    run(load(str(finished / "recipe.yaml")), finished, resume=True)
    assert differs(before[0], weights(finished)) == 0
    assert differs(before[1], load_student(finished).state_dict()) == 0


def test_the_same_seed_gives_the_same_student(mini_data, tmp_path, finished):
    same = run(tiny(mini_data, "validation.every_n_steps=2", "seed=3", name="s6", steps=8), tmp_path / "same")
    run(tiny(mini_data, "validation.every_n_steps=2", "seed=4", name="s6", steps=8), tmp_path / "other")
    expected = load_student(finished).state_dict()
    assert differs(load_student(same).state_dict(), expected) == 0
    assert differs(load_student(tmp_path / "other").state_dict(), expected) > 0


def test_shards_give_the_student_that_files_give(mini_data, tmp_path, finished):
    (tmp_path / "shards").mkdir()
    CutSet.from_file(mini_data / "speech_train.jsonl.gz").to_shar(
        str(tmp_path / "shards"), fields={"recording": "flac"}, shard_size=5
    )
    CORPORA["shar"](tmp_path / "shards", tmp_path / "data")
    of_shards = ["validation.every_n_steps=2", "seed=3", f"data.train=[{tmp_path}/data/shards.jsonl.gz]"]
    run(tiny(mini_data, *of_shards, "data.workers=1", name="s6", steps=8), tmp_path / "run")
    assert differs(weights(tmp_path / "run"), weights(finished)) == 0


def test_an_offline_wandb_run_is_written(mini_data, tmp_path):
    run(tiny(mini_data, "logging.wandb=offline", name="s1"), tmp_path)
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert file.stat().st_size > 0


# ----------------------------------------------------------------------------------- interruption, resuming

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
    made = trainer_module.make_trainer

    def make_trainer(*args, **kwargs):
        trainer: Any = made(*args, **kwargs)
        trainer.callbacks.insert(0, callback)
        return trainer

    monkeypatch.setattr("distill.training.train.make_trainer", make_trainer)
    monkeypatch.setattr("distill.adaptation.run.make_trainer", make_trainer)


@pytest.fixture(scope="module")
def never_stopped(mini_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(tiny(mini_data, *STEADY, name="s6", steps=10), out)
    return out


@pytest.mark.parametrize("step", [2, 3, 4, 7])
def test_a_resumed_run_ends_where_it_would_have(mini_data, tmp_path, monkeypatch, never_stopped, step):
    """In the first epoch, at its end (3), at a validation (4) and behind both: the same weights and log."""
    recipe = tiny(mini_data, *STEADY, name="s6", steps=10)
    before = signal.getsignal(signal.SIGINT)  # ignored, if a shell started this in the background
    with monkeypatch.context() as patch:
        interrupt(patch, step, signal.SIGINT)
        with pytest.raises(Interrupted, match=rf"stopped by SIGINT; .* --resume {tmp_path}") as stopped:
            run(recipe, tmp_path)
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step
    assert not (tmp_path / "student.safetensors").exists()
    run(load(str(tmp_path / "recipe.yaml")), tmp_path, resume=True)
    assert differs(weights(tmp_path), weights(never_stopped)) < 1e-7
    assert differs(load_student(tmp_path).state_dict(), load_student(never_stopped).state_dict()) < 1e-7
    losses = log(tmp_path)["train/loss"]
    assert losses[-(10 - step) :] == pytest.approx(log(never_stopped)["train/loss"][step:], abs=1e-6)


@pytest.mark.parametrize("every", [3, 4])
def test_a_crashed_run_goes_on_from_its_last_validation(mini_data, tmp_path, monkeypatch, every):
    """Which is at the end of an epoch (3), or in the middle of one."""
    recipe = tiny(mini_data, *STEADY, f"validation.every_n_steps={every}", name="s6", steps=10)
    run(recipe, tmp_path / "whole")

    class Crash(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 5:
                raise MemoryError

    with monkeypatch.context() as patch:
        add_callback(patch, Crash())
        with pytest.raises(MemoryError):
            run(recipe, tmp_path / "crashed")
    last = torch.load(tmp_path / "crashed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == every
    run(recipe, tmp_path / "crashed", resume=True)
    assert differs(weights(tmp_path / "crashed"), weights(tmp_path / "whole")) < 1e-7


def test_a_run_that_is_stopped_twice(mini_data, tmp_path, monkeypatch, never_stopped):
    recipe = tiny(mini_data, *STEADY, name="s6", steps=10)
    for step in (3, 8):
        with monkeypatch.context() as patch:
            interrupt(patch, step, signal.SIGINT)
            with pytest.raises(Interrupted):
                run(recipe, tmp_path, resume=step == 8)
    run(recipe, tmp_path, resume=True)
    assert differs(weights(tmp_path), weights(never_stopped)) < 1e-7


def test_a_resumed_adaptation_ends_where_it_would_have(mini_data, tmp_path, monkeypatch):
    recipe = tiny(mini_data, "data.batch_size=5", "optim.lr=1e-3", name="mini_teacher", steps=6)
    run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 4, signal.SIGTERM)
        with pytest.raises(Interrupted) as stopped:
            run(recipe, tmp_path / "stopped")
    assert stopped.value.exit_code == 143
    run(recipe, tmp_path / "stopped", resume=True)
    assert differs(weights(tmp_path / "whole"), weights(tmp_path / "stopped")) < 1e-7


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_saves_and_ends_the_command(mini_data, tmp_path, signum, code):
    """As Ctrl-C in a terminal, `timeout` or SLURM send it: to the data workers too."""
    options = overrides(
        mini_data, "data.workers=1", "validation.every_n_steps=100000", name="s4", steps=100_000
    )
    command = [sys.executable, "-m", "distill", "train", "s4", *options, "--out", str(tmp_path / "run")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, stderr=pipe, stdout=pipe, text=True, start_new_session=True)
    metrics = tmp_path / "run" / "csv" / "metrics.csv"
    try:
        for _ in range(600):
            if metrics.exists() or process.poll() is not None:
                break
            signal.sigtimedwait([], 0.1)  # a pause
        os.killpg(process.pid, signum)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, errors[-2000:]
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith(f"distill: stopped by {signum.name}; saved ")
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["student.targets=[4,8,12]"], "the teacher has layers 1 to 6, not 8, 12"),
        (["student.layers=9"], "layers is 9, but the teacher has 6"),
        (
            ["data.noises={musan: [/none]}"],
            "musan noise: /none does not exist; name a manifest, TSV or folder of audio",
        ),
        (["distortion.additive=[fsd]"], "draws fsd noise, but data.noises.fsd is not set"),
        (["trainer.devises=1"], "unknown key 'trainer.devises': did you mean trainer.devices?"),
        (["trainer.precision=17"], "trainer: "),
    ],
)
def test_mistakes_are_named_before_training(mini_data, tmp_path, changes, message):
    with pytest.raises(UserError) as error:
        run(tiny(mini_data, *changes), tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_target_layer_that_the_teacher_does_not_have(mini_data, tmp_path):
    with pytest.raises(ConfigError, match=r"targets: layer must be in 1..6, not 9"):
        run(tiny(mini_data, "targets.layer=9", name="t1_prime"), tmp_path)


@pytest.mark.parametrize("key", ["train", "dev"])
def test_fewer_utterances_than_processes_are_said_before_the_first_step(mini_data, key):
    data = SpeechData(tiny(mini_data), streams=[])
    few = len(data.train_cuts if key == "train" else data.dev_cuts)
    setattr(data, f"{'dev' if key == 'train' else 'train'}_cuts", range(few + 1))
    data.trainer = SimpleNamespace(global_rank=0, world_size=few + 1)
    with pytest.raises(DataError, match=rf"data.{key} has {few} utterances for {few + 1} processes: use few"):
        data.setup("fit")
    data.trainer.world_size = few
    data.setup("fit")


def test_a_published_teacher_is_not_written_over_a_run(mini_data, tmp_path):
    """The folder would have the recipe of one and the weights of the other."""
    out = tmp_path / "run"
    run(tiny(mini_data), out)
    before = (out / "recipe.yaml").read_bytes()
    with pytest.raises(UserError, match="holds a run already"):
        run(load("t1", ["teacher=random:mini"]), out)
    assert (out / "recipe.yaml").read_bytes() == before and not (out / "teacher.json").exists()
    for _ in range(2):  # again is fine
        assert run(load("t1", ["teacher=random:mini"]), tmp_path / "t1").exists()
