"""The runner of s3prl with our upstream: training, evaluation, mistakes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

import distill.upstream.s3prl_compat  # noqa: F401  before s3prl
from distill.upstream.expert import UpstreamExpert
from tests.paths import ROOT

pytest.importorskip("s3prl", reason="s3prl is not installed: pip install 'robust-distilhubert[s3prl]'")
for package in ("tensorboardX", "catalyst", "pandas", "editdistance"):
    pytest.importorskip(package, reason="the extra s3prl is not complete")


@pytest.fixture(scope="module")
def keywords(tmp_path_factory) -> Path:
    """Two keywords of Speech Commands' layout, as noise of two levels, and background noise."""
    root = tmp_path_factory.mktemp("speech_commands")
    generator = np.random.default_rng(0)
    for level, word in ((0.01, "yes"), (0.3, "no")):
        for split, n in (("train", 24), ("test", 3)):
            (root / split / word).mkdir(parents=True)
            for i in range(n):
                name = root / split / word / f"{i:08x}_nohash_0.wav"
                soundfile.write(name, level * generator.standard_normal(4_000), 16_000)
    (root / "train" / "_background_noise_").mkdir()
    soundfile.write(root / "train" / "_background_noise_" / "pink.wav", 0.1 * np.ones(17_000), 16_000)
    return root


def run_modules(commands: list[list[str]], cwd: Path) -> str:
    """What `python -m distill.upstream.run_downstream` prints for each list of arguments, in turn.

    In one process of their own: the runner changes builtins, and s3prl takes long to import.
    """
    code = f"""
import runpy, sys
for words in {commands!r}:
    sys.argv[1:] = words
    try:
        runpy.run_module("distill.upstream.run_downstream", run_name="__main__")
    except SystemExit as exit:
        assert exit.code == 0
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_runner_trains_and_evaluates(keywords, student_folder, tmp_path):
    """Stock keyword spotting with the configuration of docs/upstream.md, fine-tuning, two steps; then -e."""
    text = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
    config = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    config["runner"].update(total_steps=2, log_step=1, eval_step=2, save_step=2)
    data = config["downstream_expert"]["datarc"]
    data.update(num_workers=0, batch_size=4)
    data["speech_commands_root"] = str(keywords / "train")
    data["speech_commands_test_root"] = str(keywords / "test")
    (tmp_path / "ks.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    train = ["-m", "train", "-d", "speech_commands", "-c", "ks.yaml", "-p", "out", "--device", "cpu", "-f"]
    train += ["-u", "robust_distilhubert_local", "-k", str(student_folder)]
    evaluate = ["-m", "evaluate", "-e", "out/states-2.ckpt", "--device", "cpu"]
    printed = run_modules([train, evaluate], tmp_path)
    states = torch.load(tmp_path / "out" / "states-2.ckpt", weights_only=True)
    assert states["Step"] == 2
    assert set(states["Upstream"]) == set(UpstreamExpert(student_folder).state_dict())
    score = re.search(r"test at step 2: (\S+)", (tmp_path / "out" / "log.log").read_text())
    assert score is not None  # and evaluation loads the same weights:
    assert printed.count(f"test acc: {score[1]}") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-c", "none/config.yaml"), "none/config.yaml does not exist.*give one with -c"),
        ((), r"\./downstream/speech_commands/config.yaml does not exist.*give one with -c"),
    ],
)
def test_the_runners_mistakes(arguments, message, monkeypatch, capsys, tmp_path):
    from distill.upstream import run_downstream

    monkeypatch.chdir(tmp_path)
    words = ["-m", "train", "-d", "speech_commands", "-p", "out", *arguments]
    monkeypatch.setattr(sys, "argv", ["run_downstream", *words])
    monkeypatch.setattr("s3prl.run_downstream.hack_isinstance", lambda: None)  # it changes Python itself
    assert run_downstream.main() == 1
    assert re.fullmatch(f"error: {message}\n", capsys.readouterr().err)
