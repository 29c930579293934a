"""Which of several processes says what, and how the others end."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.errors import UsageError
from distill.processes import check_world, is_first_process, message_prefix
from distill.training.run_folder import RunFolder
from distill.training.saving import read_checkpoint
from distill.training.stopping import Interrupted
from tests.distill.training.runs import overrides

pytestmark = pytest.mark.slow


def run_two(*words: str) -> list[tuple[int, list[str]]]:
    """faulty_worker.py in two connected processes: exit code and own messages of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    worker = [sys.executable, str(Path(__file__).with_name("faulty_worker.py")), *words]
    processes = [
        subprocess.Popen(worker, env=where | {"LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert not any("Traceback" in err for err in errors), errors
    said = [[line for line in err.splitlines() if line.startswith("distill: ")] for err in errors]
    return list(zip([process.returncode for process in processes], said, strict=True))


@pytest.mark.parametrize("fault", ["alone", "together"])
def test_what_only_the_second_process_met_is_said(mini_data, tmp_path, fault):
    """By itself, if the others do not know; otherwise once, with a checkpoint."""
    words = overrides(mini_data, "trainer.devices=2", "trainer.strategy=ddp", steps=8)
    (code, first), (other_code, second) = run_two(fault, "train", "s4", *words, f"--out={tmp_path}/run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    listed = tmp_path / "run" / "skipped.tsv"
    assert code == other_code == 1
    if fault == "alone":
        assert second == [f"distill: process 1 on {socket.gethostname()}: this one alone"]
        (line,) = first
        assert line.startswith("distill: another process ended: see its message") and not last.exists()
    else:
        (line,) = [*first, *second]
        assert line.startswith("distill: no utterance of a batch can be used") and f"{listed} lists" in line
        assert listed.read_text() == "lost\tby the second\n"
        assert torch.load(last, weights_only=True)["global_step"] == 2


def test_a_process_that_is_killed_takes_the_run_down(mini_data, tmp_path):
    """Long before the half hour for which gloo waits; what it had saved is there."""
    options = ["trainer.devices=2", "trainer.strategy=ddp", "validation.every_n_steps=1"]
    words = overrides(mini_data, *options, steps=8)
    (code, said), (killed, nothing) = run_two("killed", "train", "s4", *words, f"--out={tmp_path}")
    assert (code, killed, nothing) == (1, -signal.SIGKILL, [])
    assert len(said) == 1 and said[0].startswith("distill: another process ended: see its message")
    last = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert last["global_step"] in (1, 2)  # the batch that it dies of is read ahead
    assert last["SpeechData"]["batches"] == last["global_step"]


def test_processes_that_would_train_different_things_train_nothing(mini_data, tmp_path):
    words = overrides(mini_data, "trainer.devices=2", "trainer.strategy=ddp", steps=8)
    (code, said), (other, nothing) = run_two("other", "train", "s4", *words, f"--out={tmp_path}/run")
    assert (code, other, nothing) == (2, 2, []) and len(said) == 1
    what = "process 1 would train something else than the first one (dat.enabled: False -> True): "
    assert said[0].startswith(f"distill: {what}")
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none"}


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),  # of the second machine
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "0"}, True),
        ({"SLURM_PROCID": "0", "LOCAL_RANK": "3"}, False),  # started by Lightning in a shell of SLURM
        ({"SLURM_PROCID": "5"}, False),
        ({"RANK": "0", "LOCAL_RANK": "1"}, False),  # by Lightning, where somebody has set RANK
        (TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, True),  # srun started several
        (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "0"}, False),
    ],
)
def test_who_is_the_first(monkeypatch, variables, first):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", *TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is first and (message_prefix() == "") is first


def test_who_prints_what(monkeypatch, distill, tmp_path):
    code, _, alone = distill("train", "nosuch")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (code, distill("train", "nosuch")[2]) == (
        2,
        alone.replace(": ", f": process 1 on {socket.gethostname()}: ", 1),
    )

    def interrupted(*_: Any) -> None:
        raise Interrupted(signal.SIGTERM, RunFolder(tmp_path))

    monkeypatch.setattr("distill.cli.commands.new_recipe", interrupted)
    assert distill("train", "s4") == (143, "", "")  # the first says it
    monkeypatch.delenv("LOCAL_RANK")
    assert distill("train", "s4")[2].startswith("distill: stopped by SIGTERM; saved ")


@pytest.mark.parametrize(
    "message",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.1.1]:41817",
        "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error",
        "recvValue failed on SocketImpl(fd=3): Connection was likely closed. Did the remote",
        "Timed out after 1801 seconds waiting for clients. 1/2 clients joined.",
        "The client socket has timed out after 1800000ms while trying to connect to (gpu01, 29500).",
        "wait timeout after 1800000ms, keys: /default_pg/0//cpu//0/1",
    ],
)
def test_that_another_process_ended_is_one_line(monkeypatch, distill, message):
    def gone(*_: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("distill.cli.commands.new_recipe", gone)
    code, _, err = distill("train", "s4")
    assert code == 1 and err.startswith("distill: another process ended: see its message")
    assert err.count("\n") == 1


def test_other_runtime_errors_are_not_hidden(monkeypatch, distill):
    def broken(*_: Any) -> None:
        raise RuntimeError("NCCL error: unhandled cuda error")

    monkeypatch.setattr("distill.cli.commands.new_recipe", broken)
    with pytest.raises(RuntimeError, match="unhandled cuda error"):
        distill("train", "s4")


LAUNCHERS = {
    "torchrun": {
        "RANK": "{rank}",
        "LOCAL_RANK": "{rank}",
        "WORLD_SIZE": "2",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    },
    "srun": {
        "SLURM_PROCID": "{rank}",
        "SLURM_LOCALID": "{rank}",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_JOB_NAME": "distill",
        "SLURM_NODELIST": "here",
    },
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("name", ["s4", "mini_teacher"])
def test_processes_that_the_recipe_does_not_know_of(
    mini_data, tmp_path, distill, monkeypatch, launcher, name
):
    """Each would be a whole run, both in one folder. All say so: one that ends may take the first with it."""
    words = overrides(mini_data, name=name)
    said = []
    for rank in "01":
        for variable, value in LAUNCHERS[launcher].items():
            monkeypatch.setenv(variable, value.format(rank=rank))
        verb = "train" if name == "s4" else "adapt"
        code, _, err = distill(verb, name, *words, "--out", tmp_path / "run")
        said.append(err)
        assert code == 2 and not list(tmp_path.glob("run/*"))
    what = "2 processes were started, but trainer.devices x trainer.num_nodes is 1: "
    assert said[0].startswith(f"distill: {what}") and said[0].count("\n") == 1
    assert said[1].startswith(f"distill: process 1 on {socket.gethostname()}: {what}")


def test_one_task_of_slurm_is_a_shell(monkeypatch):
    """From which Lightning starts as many processes as there are devices."""
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    check_world(4)
    monkeypatch.setenv("WORLD_SIZE", "4")  # torchrun's, in each of four tasks
    check_world(4)
    with pytest.raises(UsageError, match="4 processes were started"):
        check_world(2)
