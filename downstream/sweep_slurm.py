"""The jobs of a sweep as a SLURM array."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from distill.atomic import write_text
from distill.downstream.sweep import Job
from distill.errors import UserError


def write_slurm(jobs: Sequence[Job], out: Path, *, options: Sequence[str] = ()) -> Path:
    """Write a batch script with one array task per job.

    Args:
        jobs: from `plan_sweep`; at least one.
        out: folder of the sweep; the script is `sweep.sbatch` there, logs go to `slurm/` there.
        options: of sbatch, such as "--partition=gpu", "--gpus=1", "--time=04:00:00".

    Returns:
        The script.

    Raises:
        ValueError: without jobs.
        UserError: if the path of a folder has control characters.
    """
    if not jobs:
        raise ValueError("no jobs: nothing to write")
    for place in (str(Path.cwd()), str(out.resolve())):
        if not place.isprintable():  # an end of a line would end the comment that #SBATCH stands in
            raise UserError(f"{place!r} has an end of a line or another control character: rename the folder")
    logs = out / "slurm"
    logs.mkdir(parents=True, exist_ok=True)  # SLURM does not create it
    pattern = str(logs.resolve()).replace("%", "%%") + "/%A_%a.log"
    lines = [
        "#!/bin/bash",
        "#SBATCH --job-name=distill-sweep",
        f"#SBATCH --array=0-{len(jobs) - 1}",
        f"#SBATCH --chdir={shlex.quote(str(Path.cwd()))}",
        f"#SBATCH --output={shlex.quote(pattern)}",
        *(f"#SBATCH {option}" for option in options),
        "# exec: SLURM's signals reach the evaluation itself, which saves its head before it ends",
        'case "$SLURM_ARRAY_TASK_ID" in',
        *(f"{index}) exec {shlex.join(job.command())} ;;" for index, job in enumerate(jobs)),
        '*) echo "no task $SLURM_ARRAY_TASK_ID in this array" >&2; exit 2 ;;',
        "esac",
    ]
    script = out / "sweep.sbatch"
    write_text(script, "\n".join(lines) + "\n")
    return script


def submit(script: Path) -> str:
    """Hand a batch script to SLURM; returns what sbatch says.

    Raises:
        UserError: if sbatch is missing, or fails.
    """
    try:
        done = subprocess.run(["sbatch", str(script)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            f"sbatch was not found: submit {script} on a machine of the cluster, or leave out --submit"
        ) from None
    if done.returncode:
        reason = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UserError(f"sbatch refused {script}: {reason}")
    return done.stdout.strip()
