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

from distill.callbacks import Interrupted
from tests.distill.test_training import overrides


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


def test_who_prints_what(monkeypatch, distill, tmp_path):
    code, _, alone = distill("train", "nosuch")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (code, distill("train", "nosuch")[2]) == (
        2,
        alone.replace(": ", f": process 1 on {socket.gethostname()}: ", 1),
    )

    def interrupted(*_: Any) -> None:
        raise Interrupted(signal.SIGTERM, tmp_path / "checkpoints" / "last.ckpt")

    monkeypatch.setattr("distill.commands.new_recipe", interrupted)
    assert distill("train", "s4") == (143, "", "")  # the first says it
    monkeypatch.delenv("LOCAL_RANK")
    assert distill("train", "s4")[2].startswith("distill: stopped by SIGTERM; saved ")


@pytest.mark.parametrize(
    "message",
    [
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.1.1]:41817",
        "NCCL error in: ProcessGroupNCCL.cpp:3690, remote process exited or there was a network error",
        "recvValue failed on SocketImpl(fd=3): Connection was likely closed. Did the remote",
    ],
)
def test_that_another_process_ended_is_one_line(monkeypatch, distill, message):
    def gone(*_: Any) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("distill.commands.new_recipe", gone)
    code, _, err = distill("train", "s4")
    assert code == 1 and err.startswith("distill: another process ended: see its message")
    assert err.count("\n") == 1


def test_other_runtime_errors_are_not_hidden(monkeypatch, distill):
    def broken(*_: Any) -> None:
        raise RuntimeError("NCCL error: unhandled cuda error")

    monkeypatch.setattr("distill.commands.new_recipe", broken)
    with pytest.raises(RuntimeError, match="unhandled cuda error"):
        distill("train", "s4")
