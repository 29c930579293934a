"""What tests of evaluations share: prepared corpora, a small student, quick options, caches, tones."""

import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from lhotse import CutSet

from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream import cache as cache_module
from distill.downstream.options import EvaluationConfig
from distill.hubert import HubertEncoder
from distill.options import LoggingConfig
from tests.downstream.tone_sets import NOISE_HZ, NOISES


@pytest.fixture(scope="session")
def task_data(mini_data, tmp_path_factory) -> Path:
    """Manifests of every corpus: DATA/CORPUS/SPLIT.jsonl.gz."""
    from distill.data_prep import CORPORA, mini_layouts

    root = tmp_path_factory.mktemp("task_layouts")
    out = tmp_path_factory.mktemp("task_data")
    for corpus in mini_layouts.LAYOUTS:
        mini_layouts.write_layout(corpus, mini_data, root)
        CORPORA[corpus](root, out / corpus)
    return out


@pytest.fixture(scope="session")
def student(tmp_path_factory) -> Path:
    """The run folder of a student with random weights."""
    from distill import Student, load_teacher
    from distill.checkpoints import export

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    teacher = load_teacher("random:mini")
    export(Student.from_teacher(teacher, layers=2, targets=(2, 4)), "native", folder)
    return folder


@pytest.fixture(scope="session")
def quick(task_data):
    """An `EvaluationConfig` of a few steps; keyword arguments win."""

    def make(task: str, **options) -> EvaluationConfig:
        defaults = {
            "data": str(task_data),
            "steps": 4,
            "every_n_steps": 2,
            "workers": 0,
            "width": 16,
            "logging": LoggingConfig(wandb="off", every_n_steps=2),
            "trainer": {"accelerator": "cpu", "devices": 1},
        }
        if task == "pr":  # TIMIT has phones; its splits stand in for LibriSpeech's
            names = {"train-clean-100": "train", "dev-clean": "dev", "test-clean": "test"}
            defaults["sources"] = {k: f"{task_data}/timit/{v}.jsonl.gz" for k, v in names.items()}
        return EvaluationConfig(task=task, **(defaults | options))

    return make


@pytest.fixture
def students(tmp_path) -> list[str]:
    """Run folders of two students, with bytes for weights."""
    for name in ("s1", "s4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "student.safetensors").write_bytes(name.encode())
    return [str(tmp_path / "s1"), str(tmp_path / "s4")]


@pytest.fixture
def fake_distill(tmp_path, monkeypatch) -> Path:
    """Stands for Python: notes its arguments, one a line, and ends as the file `code` says."""
    script = tmp_path / "python it is"
    log = tmp_path / "log"
    script.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > "{log}"\n[ ! -f "{tmp_path}/code" ] || . "{tmp_path}/code"\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(script))
    return log


@pytest.fixture(scope="module")
def encoder() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini", layers=2).eval()


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Eleven utterances of noise."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    for index in range(11):
        n_samples = int(generator.integers(2000, 9000))
        soundfile.write(root / f"u{index:02d}.wav", 0.1 * generator.standard_normal(n_samples), 16_000)
    return root


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(cache_module, "_BLOCK", 3)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("corpora")
    generator = np.random.default_rng(0)
    for name in NOISES:
        (root / name).mkdir()
        for index, n_samples in enumerate((4000, 40_000)):  # shorter and longer than the speech
            if name == "rir":
                clip = generator.standard_normal(800) * np.exp(-np.arange(800) / 150)
                clip[:20] = 0
                clip[20] = 3.0  # the direct path
                clip /= 4
            else:
                clip = 0.2 * np.sin(2 * np.pi * NOISE_HZ[name] * np.arange(n_samples) / 16_000)
            soundfile.write(root / name / f"{index}.wav", clip, 16_000, subtype="FLOAT")
    return {name: str(root / name) for name in NOISES}


@pytest.fixture(scope="module")
def reader(corpora) -> NoiseReader:
    return NoiseReader(corpora)


@pytest.fixture(scope="module")
def low_speech(tmp_path_factory) -> Path:
    """Eleven utterances of low-passed noise: nothing where the tones are."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(1)
    low = np.asarray(scipy.signal.firwin(401, 200, fs=16_000))
    (root / "deep").mkdir()
    for index in range(11):
        noise = generator.standard_normal(int(generator.integers(8000, 20_000)))
        samples = np.convolve(noise, low, mode="same")
        samples *= 0.2 / samples.std()
        soundfile.write(root / "deep" / f"u{index}.wav", samples, 16_000, subtype="FLOAT")
    return root


@pytest.fixture(scope="module")
def low_cuts(low_speech) -> CutSet:
    return open_cuts(low_speech)
