"""Runs of SPIRAL recipes: what is released, resuming, multi-condition, and what is refused in one line."""

import json
import signal
import subprocess
import sys

import pytest
import torch

from distill.checkpoints import load_teacher, native
from distill.cli import main
from distill.config import load
from distill.errors import ConfigError
from distill.hubert import HubertEncoder
from distill.run import run
from distill.spiral import SpiralEncoder
from tests.distill.training.runs import differs, log

SMALL = (
    "teacher=random:spiral_mini",
    "heads.dim=16",
    "data.batch_size=4",
    "data.max_samples=16000",
    "data.workers=0",
    "logging.wandb=off",
    "logging.every_n_steps=1",
    "trainer.accelerator=cpu",
)


def words(data, *more, steps=4):
    """What makes `spiral_mini` run in a second; 12 utterances are three batches an epoch."""
    made = [f"optim.max_steps={steps}", "validation.every_n_steps=2"]
    made += [f"data.train=[{data}/speech_train.jsonl.gz]", f"data.dev=[{data}/speech_dev.jsonl.gz]"]
    return [*SMALL, *made, *more]


def recipe(data, *more, steps=4):
    return load("spiral_mini", words(data, *more, steps=steps))


@pytest.fixture(scope="module")
def finished(mini_data, tmp_path_factory):
    """Four steps of spiral_mini."""
    out = tmp_path_factory.mktemp("spiral") / "run"
    run(recipe(mini_data), out)
    return out


def last(out):
    return torch.load(out / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_the_student_of_the_last_step_is_released(finished):
    released = load_teacher(str(finished))
    assert isinstance(released, SpiralEncoder) and not released.training
    state = last(finished)
    for name, value in released.state_dict().items():
        assert torch.equal(value, state[f"encoder.{name}"]), name
    assert any(not torch.equal(state[f"teacher.encoder.{n}"], v) for n, v in released.state_dict().items())
    made = json.loads((finished / "teacher.json").read_text())
    assert made["provenance"]["step"] == 4 and made["architecture"]["family"] == "spiral"
    logged = log(finished)
    for name in ("train/loss", "train/accuracy", "val/loss", "val/cosine_within_utterance", "ema"):
        assert logged[name], name


def test_the_last_is_released_even_if_an_earlier_one_had_a_lower_loss(mini_data, tmp_path, monkeypatch):
    from distill.pretraining.spiral import SpiralPretraining

    original = SpiralPretraining.log_dict

    def rising(self, values, **options):
        rising = {"val/loss": float(self.global_step)} if "val/loss" in values else {}
        original(self, values | rising, **options)

    monkeypatch.setattr(SpiralPretraining, "log_dict", rising)
    run(recipe(mini_data), tmp_path / "run")
    best = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    assert best["global_step"] == 2
    assert json.loads((tmp_path / "run/teacher.json").read_text())["provenance"]["step"] == 4


@pytest.mark.slow
def test_a_resumed_run_equals_one_that_was_never_stopped(finished, mini_data, tmp_path):
    """Half the steps, then the rest: student, teacher, heads and their statistics bit for bit."""
    out = tmp_path / "run"
    out.mkdir()
    killed = f"""
import os, signal, torch
from distill.config import load
from distill.pretraining.spiral import SpiralPretraining
from distill.run import run
from pathlib import Path
original = SpiralPretraining.training_step
def step(self, batch, index):
    original(self, batch, index)
    if self.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
SpiralPretraining.training_step = step
run(load("spiral_mini", {words(mini_data)!r}), Path({str(out)!r}))
"""
    process = subprocess.run([sys.executable, "-c", killed], capture_output=True, text=True, timeout=300)
    assert process.returncode == -signal.SIGKILL, process.stderr[-2000:]
    assert not (out / "teacher.safetensors").exists()
    run(recipe(mini_data), out, resume=True)
    assert differs(last(out), last(finished)) == 0.0
    one, two = (load_teacher(str(folder)).state_dict() for folder in (out, finished))
    assert differs(one, two) == 0.0


def test_going_on_from_a_checkpoint_keeps_its_mask_embedding(finished, mini_data, tmp_path):
    changed = load_teacher(str(finished))
    changed.mask_embedding.mul_(2.0)
    native.write(changed, tmp_path / "start")
    made = run(recipe(mini_data, f"teacher={tmp_path / 'start'}", steps=2), tmp_path / "run")
    assert torch.equal(load_teacher(str(made)).mask_embedding, changed.mask_embedding)


def test_multi_condition(mini_data, tmp_path):
    noise = f"data.noises={{musan: [{mini_data}/musan_train.jsonl.gz]}}"
    more = ["distort=true", "distortion.additive=[musan,none]", "distortion.non_additive=[none]"]
    made = run(recipe(mini_data, noise, *more, "distortion.snr_db=[0,30]", steps=2), tmp_path / "run")
    provenance = json.loads(made.with_suffix(".json").read_text())["provenance"]
    assert provenance["noises_heard"] == ["musan"]


def test_a_missing_noise_corpus_is_one_line(mini_data, tmp_path):
    with pytest.raises(ConfigError, match="draws dns noise, but data.noises.dns is not set: name its source"):
        run(recipe(mini_data, "distort=true", "distortion.additive=[dns,none]"), tmp_path / "run")


def test_a_hubert_is_refused_in_one_line(mini_data, tmp_path, capsys):
    native.write(HubertEncoder.from_preset("mini"), tmp_path / "hubert")
    arguments = words(mini_data, f"teacher={tmp_path / 'hubert'}")
    assert main(["train", "spiral_mini", *arguments, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "is a HuBERT, and kind spiral pre-trains a SPIRAL" in said and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_the_encoder_section_regularises(mini_data, tmp_path):
    made = run(recipe(mini_data, "encoder.dropout=0.3", "encoder.layerdrop=0.2", steps=2), tmp_path / "run")
    config = load_teacher(str(made)).config
    assert (config.dropout, config.layerdrop) == (0.3, 0.2)


def test_accumulation_is_refused(mini_data):
    with pytest.raises(ConfigError, match="optim.accumulate must be 1"):
        recipe(mini_data, "optim.accumulate=2")
