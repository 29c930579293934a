"""What long runs meet: bad files, gradients that are not finite, full disks, schedulers."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lhotse import CutSet

from distill.checkpoints import load_student
from distill.distillation import Distillation
from distill.errors import ConfigError, DataError, UserError
from distill.run import run
from distill.training.faults import BadData
from distill.training.run_folder import RunFolder
from tests.distill.training.test_train import differs, log, overrides, tiny, weights


@pytest.fixture
def some_bad(mini_data, tmp_path) -> Path:
    """The twelve training utterances, of which two are gone and one is not audio."""
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    (tmp_path / "noise.flac").write_bytes(b"not audio")
    for cut, name in zip(cuts[:3], ["gone1.flac", "gone2.flac", "noise.flac"], strict=True):
        cut.recording.sources[0].source = str(tmp_path / name)
    CutSet.from_cuts(cuts).to_file(tmp_path / "bad.jsonl.gz")
    return tmp_path / "bad.jsonl.gz"


def test_too_many_bad_files_end_the_run_with_a_list(mini_data, some_bad, tmp_path):
    recipe = tiny(mini_data, f"data.train=[{some_bad}]", steps=8)
    with pytest.raises(DataError, match=r"3 of 1\d utterances cannot be used, more than .*=0.01") as error:
        run(recipe, tmp_path / "run")  # at the end of the first epoch
    assert "\n" not in str(error.value) and str(tmp_path / "run/skipped.tsv") in str(error.value)
    lines = (tmp_path / "run/skipped.tsv").read_text().splitlines()
    assert len(lines) == 3 and all("\tcannot be read" in line or "does not exist" in line for line in lines)
    assert (tmp_path / "run/checkpoints/last.ckpt").exists()


def test_missing_and_broken_files_of_a_table_count_as_others_do(mini_data, tmp_path):
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    (tmp_path / "noise.flac").write_bytes(b"not audio")
    files = [str(cut.recording.sources[0].source) for cut in cuts[:2]]
    gone = [f"gone{number}.flac" for number in range(50)]
    (tmp_path / "list.tsv").write_text("\n".join(["path", *files, "noise.flac", *gone]) + "\n")
    recipe = tiny(mini_data, f"data.train=[{tmp_path}/list.tsv]", "data.batch_size=24", steps=8)
    with pytest.raises(DataError, match=r"\d+ of \d+ utterances cannot be used, more than .*=0.01") as error:
        run(recipe, tmp_path / "run")
    last = rf"; the last is '\w+': {tmp_path}/list.tsv, line \d+: {tmp_path}/\w+.flac: [^;]+; "
    said = str(error.value)
    assert re.search(last, said) and "fix them, or raise data.max_bad_fraction, then" in said
    lines = (tmp_path / "run/skipped.tsv").read_text().splitlines()
    listed = dict(line.split("\t") for line in lines)
    assert set(listed) == {"noise", *(f"gone{number}" for number in range(50))}
    assert listed["gone7"] == f"{tmp_path}/list.tsv, line 12: {tmp_path}/gone7.flac: does not exist"


def test_some_bad_files_are_listed_once(mini_data, some_bad, tmp_path):
    recipe = tiny(mini_data, f"data.train=[{some_bad}]", "data.max_bad_fraction=0.3", steps=8)
    run(recipe, tmp_path / "run")
    assert len((tmp_path / "run/skipped.tsv").read_text().splitlines()) == 3
    assert load_student(tmp_path / "run")


def spoil(monkeypatch, *steps: int) -> None:
    """Let the teacher's targets be NaN in these batches of the training."""
    original, calls = Distillation.training_step, []

    def training_step(self, batch, batch_idx):
        calls.append(None)
        if len(calls) in steps:
            batch.waveforms = batch.waveforms * float("nan")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Distillation, "training_step", training_step)


def test_an_update_that_is_not_finite_is_left_out(mini_data, tmp_path, monkeypatch):
    spoil(monkeypatch, 2, 4, 5)
    run(tiny(mini_data, "validation.every_n_steps=1", name="s6", steps=6), tmp_path)
    lines = (tmp_path / "nonfinite.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "3", "4"]
    assert all(len(line.split("\t")[1].split()) == 4 for line in lines)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())  # the classifier's too
    finite = torch.isfinite(torch.tensor(log(tmp_path)["train/loss"]))
    assert finite.tolist() == [True, False, True, False, False, True]


def test_a_left_out_update_changes_nothing(mini_data, tmp_path, monkeypatch):
    run(tiny(mini_data, name="s6", steps=1), tmp_path / "one")
    spoil(monkeypatch, 2, 3)
    # The learning rate depends on max_steps, except in the first step of the warm-up.
    recipe = tiny(mini_data, "optim.warmup=0", "validation.every_n_steps=1", name="s6", steps=3)
    monkeypatch.setattr("distill.options.OptimConfig.schedule", lambda *_: 1.0)
    run(recipe, tmp_path / "three")
    run(tiny(mini_data, "optim.warmup=0", name="s6", steps=1), tmp_path / "one_more")
    assert differs(weights(tmp_path / "three"), weights(tmp_path / "one_more")) == 0


def test_too_many_such_updates_end_the_run(mini_data, tmp_path, monkeypatch):
    recipe = tiny(mini_data, "optim.max_nonfinite=4", steps=20)
    with monkeypatch.context() as patch:
        spoil(patch, *range(3, 30))
        with pytest.raises(
            UserError, match="not finite in 4 consecutive updates, up to step 6; the last .* held"
        ) as why:
            run(recipe, tmp_path)
    assert "There is no checkpoint yet: start again with a lower optim.lr" in str(why.value)
    assert not list(tmp_path.glob("checkpoints/*"))  # of weights that may have broken down
    run(tiny(mini_data, steps=2), tmp_path)  # into the same folder
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())


# ------------------------------------------------------------------------------------------------- processes


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


def test_a_full_disk_leaves_the_previous_checkpoint(mini_data, tmp_path):
    """Files may not grow beyond 1 MB in the second part of the run, as if the disk were full."""
    run(tiny(mini_data, steps=2), tmp_path / "run")
    kept = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    words = ["--resume", str(tmp_path / "run"), "optim.max_steps=4", "--override"]
    done = subprocess.run(
        [sys.executable, "-m", "distill", "train", *words],
        preexec_fn=full,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "last.ckpt could not be written" in done.stderr and "the previous one stays" in done.stderr
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == kept
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.startswith(".")]
    run(tiny(mini_data, steps=4), tmp_path / "run", resume=True)  # after making room
    assert load_student(tmp_path / "run")


# ----------------------------------------------------------------------------------------- changed recipes


def test_a_finished_run_is_lengthened_with_override(mini_data, tmp_path):
    run(tiny(mini_data, steps=2), tmp_path)
    run(tiny(mini_data, steps=5), tmp_path, resume=True)
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 5
    assert len(log(tmp_path)["train/loss"]) == 3


@pytest.mark.parametrize("steps", [4, 5])
def test_steps_behind_the_last_validation_are_said_to_be_lost(mini_data, tmp_path, caplog, steps):
    run(tiny(mini_data, "validation.every_n_steps=2", steps=steps), tmp_path)
    said = "of 5 is released, the lowest dev loss; the last 1 steps were not validated"
    assert (said in caplog.text) == (steps == 5)


def test_another_shape_does_not_fit(mini_data, tmp_path):
    run(tiny(mini_data, steps=2), tmp_path)
    recipe = tiny(mini_data, "student.layers=1", steps=4)
    kept = (tmp_path / "recipe.yaml").read_text()
    with pytest.raises(ConfigError, match="last.ckpt is of a model of another shape than the recipe's: "):
        run(recipe, tmp_path, resume=True)
    assert (tmp_path / "recipe.yaml").read_text() == kept  # it can still be resumed with that
    run(tiny(mini_data, steps=4), tmp_path, resume=True)
    assert "max_steps: 4" in (tmp_path / "recipe.yaml").read_text()


def test_a_resumed_run_goes_on_in_weights_and_biases(mini_data, tmp_path):
    first = tiny(mini_data, "logging.wandb=offline", steps=2)
    run(first, tmp_path)
    run(tiny(mini_data, "logging.wandb=offline", steps=4), tmp_path, resume=True)
    folders = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    ids = {name.split("-")[3] for name in folders}  # offline-run-TIME-ID, and -1 if both begin in one second
    assert len(folders) == 2 and len(ids) == 1


def test_files_of_the_same_name_in_two_sources_are_both_listed(tmp_path):
    bad = BadData(RunFolder(tmp_path), 0.5)
    bad._add("utterances", [("000", "a/000.wav: does not exist"), ("000", "b/000.wav: is empty")], "")
    bad._add("utterances", [("000", "b/000.wav: is empty")], "")
    lines = (tmp_path / "skipped.tsv").read_text().splitlines()
    assert lines == ["000\ta/000.wav: does not exist", "000\tb/000.wav: is empty"]
