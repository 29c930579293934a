"""A process that knocks at doors with hostile files: each in a process of its own, with limits, measured.

Reads lines of JSON [door, path, folder for output], writes lines of JSON. What a door needs is imported
first: the limits are for what comes after that.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch

from distill import config, load_student, load_teacher
from distill.checkpoints import inspect, safe_pickle
from distill.cli import main
from distill.downstream.finetuning.model import load_finetuned
from distill.errors import UserError
from distill.training import train

CPU_SECONDS = 15
"""After which the system ends a process; the tests want less."""
MEMORY = 12 << 30
"""Address space: far more than the tests allow, so that a file that wants that is seen to want it."""
FOLDER = Path(tempfile.mkdtemp())
"""For the run that is resumed."""
IMPORTED = (inspect, train)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def _command(*words: str) -> str:
    """What the command line says; "" if it does what it was told."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    *before, said = err.getvalue().splitlines() or [""]
    assert code in (0, 1, 2) and (code == 0 or said), (code, said)
    assert not any(line.startswith(("Traceback", "distill:")) for line in before), before
    return said if code else ""


def _library(read: Callable[[str], object]) -> Callable[[str, Path], str]:
    def knock(path: str, _: Path) -> str:
        try:
            read(path)
        except UserError as error:
            return f"distill: {error}"
        return ""

    return knock


def _run(folder: Path) -> Path:
    """A run of two steps, made once."""
    run, speech = folder / "run", folder / "speech"
    if not run.exists():
        speech.mkdir()
        for n in range(8):
            samples = 0.1 * np.random.default_rng(n).standard_normal(8000)
            soundfile.write(speech / f"{n}.wav", samples, 16_000)
        words = [f"data.{name}=[{speech}]" for name in ("train", "dev")]
        words += ["data.workers=0", "data.batch_size=2", "teacher=random:mini", "student.targets=[1]"]
        words += ["optim.max_steps=2", "validation.every_n_steps=2", "logging.wandb=off"]
        said = _command("train", "s1", *words, "trainer.accelerator=cpu", "--out", str(run))
        assert not said, said
    return run


def _resume(path: str, out: Path) -> str:
    """`distill train --resume` of a run whose last checkpoint the file is."""
    shutil.copytree(_run(FOLDER), out / "run")
    shutil.copy(path, out / "run" / "checkpoints" / "last.ckpt")
    return _command("train", "--resume", str(out / "run"), "optim.max_steps=4", "--override")


def _continue(path: str, out: Path) -> str:
    """The same where the file says what in a good checkpoint is replaced."""
    last = out / "run" / "checkpoints" / "last.ckpt"
    shutil.copytree(_run(FOLDER), out / "run")
    torch.save(safe_pickle.load(last) | safe_pickle.load(path), out / "new.ckpt")
    (out / "new.ckpt").replace(last)
    return _command("train", "--resume", str(out / "run"), "optim.max_steps=4", "--override")


DOORS: dict[str, Callable[[str, Path], str]] = {
    "teacher": _library(load_teacher),
    "student": _library(load_student),
    "recipe": _library(config.load),
    "finetuned": _library(load_finetuned),
    "inspect": lambda path, _: _command("inspect", path),
    "export": lambda path, out: _command("export", path, "--to", "s3prl", "--out", str(out / "made")),
    "train": lambda path, out: _command("train", path, "--out", str(out / "run")),
    "resume": _resume,
    "continue": _continue,
}


def _knock(door: str, path: str, out: Path) -> dict[str, object]:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before, start = _status("VmRSS"), time.process_time()
    try:
        said = DOORS[door](path, out)
    except BaseException:
        return {"traceback": traceback.format_exc()[-3000:]}
    return {
        "said": said,
        "cpu_s": time.process_time() - start,
        "memory": _status("VmHWM") - before,
    }


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        door, path, out = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            os.write(writer, json.dumps(_knock(door, path, Path(out))).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        print(answer.decode() or json.dumps({"died": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
    shutil.rmtree(FOLDER)
