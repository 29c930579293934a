"""Runs that are killed and resumed: are they the same to the last bit, and what does it cost?

    python -m bench resume
    python -m bench resume --kills 4

A small recipe (setup2 and DAT on made-up speech) is trained once without interruption, and once killed with
SIGKILL again and again, in turn before an update, in a validation, while a checkpoint is being written, and
at a random moment of a step; each time `distill train --resume` continues it. Weights and moments of the
optimisers are then compared bit by bit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from bench import report
from bench.dying import PLACES
from distill.checkpoints import safe_pickle
from distill.waveforms import SAMPLE_RATE

ROOT = Path(__file__).parents[1]
STEPS_A_KILL, VALIDATE_EVERY = 3, 2
SPEECH, NOISES = 12, 3
COMPARED = ("state_dict", "optimizer_states", "classifier_optimizer")


def main(arguments: list[str]) -> int:
    """Train, kill, resume, compare, print."""
    options = _parser().parse_args(arguments)
    environment = report.environment()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.kills, options.seed)
    text = f"{report.heading(environment)}\n\n{as_text(found)}"
    print(text)
    report.write(options, {"environment": environment} | found, text)
    return 0 if found["identical"] else 1


def measure(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Both runs, and what came of them."""
    words = recipe(folder, STEPS_A_KILL * (kills + 1))
    run(folder / "whole.jsonl", "never", 0, ["train", *words, "--out", str(folder / "whole")])
    rng, notes, killed = random.Random(seed), folder / "killed.jsonl", folder / "killed"
    for number, place in zip(range(kills), itertools.cycle(PLACES)):
        step = STEPS_A_KILL * number + rng.randrange(STEPS_A_KILL)
        run(notes, place, step, _begin_or_resume(killed, words), dies=True)
    run(notes, "never", 0, _begin_or_resume(killed, words))
    lives = [json.loads(line) for line in notes.read_text(encoding="utf-8").splitlines()]
    deaths = [life for life in lives if "died" in life]
    starts = [life for life in lives if "began" in life]
    repeated = [death["died"] - start["began"] for death, start in zip(deaths, starts[1:], strict=True)]
    return {
        "kills": [death["place"] for death in deaths],
        "steps": STEPS_A_KILL * (kills + 1),
        "validate_every": VALIDATE_EVERY,
        "repeated_steps": repeated,
        "resume_s": [start["after_s"] for start in starts[1:]],
        "differences": differences(folder / "whole", killed),
        "identical": not differences(folder / "whole", killed),
    }


def run(notes: Path, place: str, step: int, words: list[str], *, dies: bool = False) -> None:
    """A life of a run.

    Raises:
        RuntimeError: it ended in another way than it should.
    """
    done = subprocess.run(
        [sys.executable, "-m", "bench.dying", str(notes), place, str(step), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode != (-signal.SIGKILL if dies else 0):
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def _begin_or_resume(out: Path, words: list[str]) -> list[str]:
    """What continues a run, or starts it again if it was killed before its first checkpoint."""
    if (out / "checkpoints" / "last.ckpt").is_file():
        return ["train", "--resume", str(out)]
    return ["train", *words, "--out", str(out)]


def recipe(folder: Path, steps: int) -> list[str]:
    """A recipe that makes a step in a tenth of a second, and its data."""
    rng = np.random.default_rng(0)
    for kind, count, seconds in (("speech", SPEECH, 1), ("noise", NOISES, 2)):
        (folder / kind).mkdir()
        for number in range(count):
            samples = 0.1 * rng.standard_normal(seconds * SAMPLE_RATE + 800 * number)
            soundfile.write(folder / kind / f"{number}.wav", samples, SAMPLE_RATE)
    noises = f"{{musan: [{folder}/noise], wham: [{folder}/noise]}}"
    return [
        "s6",
        *("teacher=random:mini", "student.targets=[2,4,6]"),
        *(f"optim.max_steps={steps}", f"validation.every_n_steps={VALIDATE_EVERY}"),
        *(f"data.train=[{folder}/speech]", f"data.dev=[{folder}/speech]"),
        *(f"data.noises={noises}", f"data.dev_noises={noises}"),
        *("data.workers=0", "data.batch_size=5", "data.max_samples=16000"),
        *("logging.wandb=off", "logging.every_n_steps=1", "trainer.accelerator=cpu"),
    ]


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same, bit by bit, in the last checkpoints of two runs."""
    a, b = (safe_pickle.load(run / "checkpoints" / "last.ckpt") for run in (one, other))
    return [key for key in (*COMPARED, "global_step") if not same(a.get(key), b.get(key))]


def same(a: Any, b: Any) -> bool:
    """Whether nested containers hold the same, tensors to the last bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def as_text(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    kills, repeated = found["kills"], found["repeated_steps"]
    places = ", ".join(f"{kills.count(place)} {place}" for place in PLACES if place in kills)
    end = (
        "identical to the last bit" if found["identical"] else "DIFFERENT: " + ", ".join(found["differences"])
    )
    rows = [
        ["kills", f"{len(kills)} ({places})"],
        ["steps of the run, validated (and saved) every", f"{found['steps']}, {found['validate_every']}"],
        ["weights and moments at the end", end],
        ["steps made again: in all, at most after one kill", f"{sum(repeated)}, {max(repeated, default=0)}"],
        ["seconds from starting the process to training", report.spread(found["resume_s"], 1)],
    ]
    return report.rows_to_markdown(("runs that are killed", "measured"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = report.make_parser("resume", __doc__)
    parser.add_argument("--kills", type=int, default=20, help="of the run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the steps to kill at (%(default)s)")
    return parser
