"""Signals: what is finished and saved before a run stops."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from distill.run import run
from distill.training.stopping import Interrupted
from tests.distill.training.runs import (
    STEADY,
    add_callback,
    interrupt,
    log,
    overrides,
    same_run,
    tiny,
    weights,
)
from tests.paths import ROOT

pytestmark = pytest.mark.slow


class StopInValidation(pl.Callback):
    """Sends this process a signal while it validates after that step."""

    def __init__(self, step: int, signum: int):
        self.step, self.signum = step, signum
        self.batches = 0

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.global_step == self.step:
            self.batches += 1
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("name", ["s6", "mini_teacher"])
@pytest.mark.parametrize("every", [3, 4])
@pytest.mark.parametrize("when", ["in it", "right before"])
def test_a_validation_that_was_broken_off_is_done_again(
    mini_data, tmp_path, monkeypatch, capfd, when, every, name
):
    """At the end of an epoch (3), or in the middle of one. Before, it was finished first, or never done."""
    recipe = tiny(mini_data, *STEADY, f"validation.every_n_steps={every}", name=name, steps=10)
    run(recipe, tmp_path / "whole")
    stop = StopInValidation(every, signal.SIGTERM)
    with monkeypatch.context() as patch:
        if when == "right before":
            interrupt(patch, every, signal.SIGTERM)
        else:
            add_callback(patch, stop)
        with pytest.raises(Interrupted) as stopped:
            run(recipe, tmp_path / "run")
    assert (stopped.value.exit_code, stop.batches) == (143, 1 if when == "in it" else 0)
    assert capfd.readouterr().err.count("distill: SIGTERM: saving after this step, then stopping\n") == 1
    assert weights(tmp_path / "run") and not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    run(recipe, tmp_path / "run", resume=True)
    assert same_run(tmp_path / "run", tmp_path / "whole", after=every)


def test_the_last_validation_is_finished(mini_data, tmp_path, monkeypatch):
    """There would be nothing to continue from."""
    recipe = tiny(mini_data, "data.batch_size=1", steps=2)
    stop = StopInValidation(2, signal.SIGUSR1)
    add_callback(monkeypatch, stop)
    assert run(recipe, tmp_path).exists() and stop.batches > 1
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 2
    assert len(log(tmp_path)["val/loss"]) == 1


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


def command(mini_data: Path, out: Path, *more: str, steps: int = 4000, **options) -> subprocess.Popen:
    """`distill train` in a process of its own."""
    words = overrides(mini_data, *more, steps=steps)
    words = [word for word in words if not word.startswith("validation.")]
    return subprocess.Popen(
        [sys.executable, "-m", "distill", "train", "s4", *words, "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    import time

    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)


@pytest.mark.parametrize("in_slurm", [True, False])
def test_sigusr1_saves_and_requeues(mini_data, tmp_path, in_slurm):
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    scontrol.chmod(0o755)
    environment = os.environ | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    if in_slurm:
        environment |= {"SLURM_JOB_ID": "17", "SLURM_ARRAY_JOB_ID": "15", "SLURM_ARRAY_TASK_ID": "2"}
    process = command(mini_data, tmp_path / "run", env=environment)
    wait_for(tmp_path / "run" / "csv" / "metrics.csv", process)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("distill: stopped by SIGUSR1; saved ")
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert last.endswith("job 15_2 is requeued" if in_slurm else f"continue with --resume {tmp_path / 'run'}")
    assert (tmp_path / "called").exists() == in_slurm
    if in_slurm:
        assert (tmp_path / "called").read_text() == "requeue 15_2\n"
