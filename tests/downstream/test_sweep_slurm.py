"""A SLURM array in a real bash, and its submission."""

import os
import subprocess

import pytest

from distill.downstream.sweep_slurm import submit, write_slurm
from distill.errors import UserError
from tests.downstream.sweeps import plan


def test_each_array_task_runs_its_job(students, tmp_path, fake_distill):
    jobs = plan(students, tmp_path, seeds=(0, 1), words=["label=it's $HOME; rm"])
    script = write_slurm(jobs, tmp_path / "out", options=["--partition=gpu", "--gpus=1"])
    text = script.read_text()
    assert "#SBATCH --array=0-3\n" in text
    assert "#SBATCH --partition=gpu\n#SBATCH --gpus=1\n" in text
    assert (tmp_path / "out" / "slurm").is_dir()
    for index, job in enumerate(jobs):
        subprocess.run(["bash", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": str(index)}, check=True)
        assert fake_distill.read_text().splitlines() == job.command()[1:]
    outside = subprocess.run(["bash", script], env=os.environ | {"SLURM_ARRAY_TASK_ID": "4"}, check=False)
    assert outside.returncode == 2
    with pytest.raises(ValueError, match="no jobs"):
        write_slurm([], tmp_path)


def test_submitting(tmp_path, monkeypatch):
    script = tmp_path / "sweep.sbatch"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch was not found"):
        submit(script)
    sbatch = tmp_path / "sbatch"
    sbatch.write_text('#!/bin/sh\necho "Submitted batch job 7 $1"\n')
    sbatch.chmod(0o755)
    assert submit(script) == f"Submitted batch job 7 {script}"
    sbatch.write_text('#!/bin/sh\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    with pytest.raises(UserError, match="invalid partition"):
        submit(script)


def test_no_name_of_a_folder_is_a_command(students, tmp_path, monkeypatch):
    odd = tmp_path / "a\ntouch executed\n#"
    odd.mkdir()
    jobs = plan(students[:1], tmp_path)
    with pytest.raises(UserError, match="has an end of a line"):
        write_slurm(jobs, odd)
    monkeypatch.chdir(odd)
    with pytest.raises(UserError, match="has an end of a line"):
        write_slurm(jobs, tmp_path)
