"""Runs of fine-tuning from recipe to model."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distill.checkpoints import native
from distill.checkpoints.loading import load_any
from distill.cli import main
from distill.config import to_yaml
from distill.downstream.finetuning import run as run_module
from distill.downstream.finetuning.model import load_finetuned
from distill.downstream.finetuning.run import finetune
from distill.downstream.finetuning.units import FILE, Characters
from distill.errors import CheckpointError, ConfigError, DataError
from distill.run import run
from distill.student import Student
from distill.training.stopping import Interrupted
from tests.distill.training.runs import StopAt, differs, log, weights
from tests.downstream.finetuning.conftest import SENTENCES, TEACHERS, small, write_speech
from tests.paths import ROOT

pytestmark = pytest.mark.slow

STEADY = ("freeze_updates=3", "validation.every_n_steps=4", "optim.max_steps=8")
"""Ten utterances in batches of four: three batches an epoch."""


def stopped_at(monkeypatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Let the next run get a signal during that step."""
    made = run_module.make_trainer

    def make_trainer(*args, **kwargs):
        trainer = made(*args, **kwargs)
        trainer.callbacks.insert(0, StopAt(step, signum))
        return trainer

    monkeypatch.setattr(run_module, "make_trainer", make_trainer)


@pytest.fixture(scope="module")
def never_stopped(spoken, tmp_path_factory):
    """By teacher, the folder of a run that was never stopped."""
    made = {}

    def run_of(teacher: str) -> Path:
        if teacher not in made:
            made[teacher] = tmp_path_factory.mktemp("whole")
            finetune(small(spoken, *STEADY, f"teacher={teacher}"), made[teacher])
        return made[teacher]

    return run_of


@pytest.mark.parametrize("teacher", TEACHERS)
@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_ends_where_it_would_have(spoken, tmp_path, monkeypatch, never_stopped, teacher, step):
    """Stopped while the encoder waits, or later: bit for bit the same weights."""
    recipe, whole = small(spoken, *STEADY, f"teacher={teacher}"), never_stopped(teacher)
    with monkeypatch.context() as patch:
        stopped_at(patch, step)
        with pytest.raises(Interrupted):
            finetune(recipe, tmp_path)
    finetune(recipe, tmp_path, resume=True)
    assert differs(weights(whole), weights(tmp_path)) == 0.0
    one, other = load_finetuned(whole), load_finetuned(tmp_path)
    assert differs(one.model.state_dict(), other.model.state_dict()) == 0.0
    assert one.provenance["step"] == other.provenance["step"]
    assert log(tmp_path)["train/loss"] == log(whole)["train/loss"][step:]


def test_who_learns_when(spoken, tmp_path):
    """The encoder waits for its updates, a frozen one stays as it was."""

    teacher = native.write(load_any(TEACHERS[-1])[0], tmp_path / "teacher")

    def encoder_moved(*words: str) -> bool:
        recipe = small(spoken, *words, "optim.max_steps=2", "validation.every_n_steps=2")
        recipe = replace(recipe, teacher=str(teacher))
        made = load_finetuned(finetune(recipe, tmp_path / "-".join(words))).model
        return differs(made.encoder.state_dict(), load_any(teacher)[0].state_dict()) > 0

    assert not encoder_moved("frozen=true")
    assert encoder_moved("freeze_updates=0")
    assert encoder_moved("freeze_updates=1")


def test_subwords_are_kept_and_a_resumed_run_takes_them(spoken, tmp_path, monkeypatch):
    pytest.importorskip("sentencepiece")
    recipe = small(spoken, "units=subwords", "vocabulary=18")
    with monkeypatch.context() as patch:
        stopped_at(patch, 2)
        with pytest.raises(Interrupted):
            finetune(recipe, tmp_path / "run")
    learned = (tmp_path / "run" / FILE).read_bytes()
    with pytest.raises(ConfigError, match="has 18 subwords, vocabulary is 17"):
        finetune(replace(recipe, vocabulary=17), tmp_path / "run", resume=True)
    made = finetune(recipe, tmp_path / "run", resume=True)
    assert (made.parent / FILE).read_bytes() == learned
    assert load_finetuned(made).units.outputs == 18
    with pytest.raises(ConfigError, match="vocabulary 1024 is larger than the training transcripts allow"):
        finetune(replace(recipe, vocabulary=1024), tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_a_student_can_be_fine_tuned(spoken, tmp_path):
    student = Student.from_teacher(load_any("random:mini")[0], layers=1, targets=(2, 4))
    native.write(student, tmp_path / "student")
    recipe = small(spoken, f"teacher={tmp_path / 'student'}", "encoder.layerdrop=0.2", "optim.max_steps=1")
    made = load_finetuned(finetune(recipe, tmp_path / "run")).model
    assert made.encoder.config.layers == 1 and made.encoder.config.layerdrop == 0.2
    with pytest.raises(ConfigError, match="^encoder.block1_layerdrop: .* .hubert. has none$"):
        finetune(replace(recipe, encoder=replace(recipe.encoder, block1_layerdrop=0.1)), tmp_path / "other")


def test_it_learns_to_write(tmp_path):
    """Hum and hiss, and a word for each."""
    speech = write_speech(tmp_path / "speech", ["a", "i"] * 4)
    generator = np.random.default_rng(0)
    for number in range(8):
        noise = generator.standard_normal(6_400)
        samples = 0.1 * noise if number % 2 else np.cumsum(noise) / 400
        soundfile.write(speech.parent / f"u{number:02d}.wav", samples, 16_000)
    words = ("optim.max_steps=30", "optim.lr=0.003", "validation.every_n_steps=15", "data.batch_size=8")
    finetune(small(speech, *words, "classifier.width=64", "teacher=random:mini"), tmp_path / "run")
    logged = log(tmp_path / "run")
    assert logged["val/loss"][-1] < 1.0 and logged["val/wer"][-1] < 100.0


def test_multi_condition_training(spoken, tmp_path, noise_folder):
    noisy = (
        "distort=true",
        "distortion.additive=[musan,none]",
        "distortion.non_additive=[none]",
        f"data.noises={{musan: [{noise_folder}]}}",
        "optim.max_steps=2",
    )
    clean = finetune(small(spoken, "optim.max_steps=2"), tmp_path / "clean")
    made = finetune(small(spoken, *noisy), tmp_path / "noisy")
    assert load_finetuned(made).provenance["distorted"]
    assert log(made.parent)["train/loss"] != log(clean.parent)["train/loss"]


def test_bad_input(spoken, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere.*does not exist"):
        finetune(small(spoken, f"teacher={tmp_path}/nowhere"), tmp_path / "run")
    silent = write_speech(tmp_path / "silent", [""] * 3)
    with pytest.raises(DataError, match="all 3 utterances are without a transcript"):
        finetune(small(silent), tmp_path / "run")
    with pytest.raises(ConfigError, match="is a recipe for distill finetune"):
        run(small(spoken), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_left_alone(spoken, tmp_path, capsys):
    made = finetune(small(spoken, "optim.max_steps=1"), tmp_path / "run")
    before = made.read_bytes()
    assert finetune(small(spoken, "optim.max_steps=1"), tmp_path / "run", resume=True) == made
    assert "is finished already" in capsys.readouterr().err and made.read_bytes() == before
    described = json.loads(made.with_suffix(".json").read_text())
    assert described["kind"] == "finetuned" and described["provenance"]["teacher"] == TEACHERS[-1]


def command(capsys, *words: object) -> tuple[int, str, str]:
    """Run a command line: exit code, stdout, the last line of stderr."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, (said.err.strip().splitlines() or [""])[-1]


def test_the_command(spoken, tmp_path, capsys):
    """From a recipe in a file to a model and a score."""
    recipe = small(spoken, "optim.max_steps=2", f"tests.a.sources=[{spoken}]")
    path, out = tmp_path / "small.yaml", tmp_path / "run"
    path.write_text(to_yaml(recipe))
    code, said, _ = command(capsys, "finetune", path, "--out", out)
    assert (code, said) == (0, f"{out / 'finetuned.safetensors'}\n")
    score = json.loads((out / "results" / "wer-a.json").read_text())
    assert score["n_utterances"] == 10 and score["words"] == sum(len(s.split()) for s in SENTENCES)
    assert score["recipe"] == "small" and score["checkpoint_hash"]
    before = (out / "results" / "wer-a.json").read_bytes()
    code, _, error = command(capsys, "finetune", "--resume", out)
    assert code == 0 and "is finished already" in error
    assert (out / "results" / "wer-a.json").read_bytes() == before
    for place in (out, out / "finetuned.safetensors"):
        code, _, error = command(capsys, "inspect", place)
        assert code == 1 and "is a fine-tuned model, encoder and classifier" in error


def test_commands_for_other_recipes(spoken, tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(small(spoken, f"tests.a.sources=[{tmp_path}/nowhere.tsv]")))
    code, _, error = command(capsys, "train", path, "--out", tmp_path / "run")
    assert (code, error) == (2, "distill: small is a recipe for distill finetune, not for distill train")
    code, _, error = command(capsys, "finetune", "s4", "--out", tmp_path / "run")
    assert (code, error) == (2, "distill: s4 is a recipe for distill train, not for distill finetune")
    code, _, error = command(capsys, "finetune", path, "--out", tmp_path / "run")
    assert code == 1 and "nowhere.tsv does not exist" in error  # before anything is trained
    assert not (tmp_path / "run").exists()


def test_two_processes_learn_as_one(spoken, tmp_path):
    """The same losses, while the encoder waits and afterwards."""
    noiseless = ("classifier.dropout=0", "encoder.dropout=0", "encoder.attention_dropout=0")
    words = ("freeze_updates=2", "optim.max_steps=4", "validation.every_n_steps=4", *noiseless)
    finetune(small(spoken, *words), tmp_path / "one")
    path = tmp_path / "small.yaml"
    path.write_text(to_yaml(small(spoken, *words, "trainer.devices=2")))
    run_it = [sys.executable, "-m", "distill", "finetune", path, "--out", tmp_path / "two"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(run_it, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = log(tmp_path / "one"), log(tmp_path / "two")
    assert two["train/loss"] == pytest.approx(one["train/loss"], rel=1e-4)
    assert two["val/loss"] == pytest.approx(one["val/loss"], rel=1e-4)
    assert two["val/wer"] == one["val/wer"]


def test_longer_training_is_tested_again(spoken, tmp_path, caplog, monkeypatch):
    """A model that a run releases later does not keep the scores of the one before."""
    monkeypatch.setattr(run_module, "take_best", lambda trainer, *_: trainer.global_step)  # the last one
    recipe = small(spoken, "optim.max_steps=2", "validation.every_n_steps=2", f"tests.a.sources=[{spoken}]")
    finetune(recipe, tmp_path / "run")
    before = json.loads((tmp_path / "run/results/wer-a.json").read_text())
    longer = replace(recipe, optim=replace(recipe.optim, max_steps=4))
    made = finetune(longer, tmp_path / "run", resume=True)
    after = json.loads((tmp_path / "run/results/wer-a.json").read_text())
    assert json.loads(made.with_suffix(".json").read_text())["provenance"]["step"] == 4
    assert after["checkpoint_hash"] != before["checkpoint_hash"]
    assert "is of what this run released before: counted again" in caplog.text


def test_of_equal_error_rates_the_lower_loss_is_released(spoken, tmp_path, monkeypatch):
    monkeypatch.setattr(Characters, "words", lambda *_: ["nothing"])
    words = ("optim.max_steps=6", "validation.every_n_steps=2", "optim.lr=0.003", "freeze_updates=0")
    made = finetune(small(spoken, *words), tmp_path / "run")
    logged = log(tmp_path / "run")
    assert len(set(logged["val/wer"])) == 1
    best = 2 * (1 + min(range(3), key=logged["val/loss"].__getitem__))
    assert json.loads(made.with_suffix(".json").read_text())["provenance"]["step"] == best
