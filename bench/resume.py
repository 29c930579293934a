"""Runs that are killed and resumed: are they the same to the last bit, and what does it cost?

    python -m bench resume
    python -m bench resume --kills 4 --kind heads

A small recipe is trained on made-up speech: a distillation (setup2 and DAT), an adaptation, SPIRAL's
pre-training with its moving average, or the head of an evaluation on cached features. It runs once without
interruption, and once killed with SIGKILL again and again, in turn before an update, in a validation, while a
checkpoint is being written, and at a random moment of a step; each time `--resume`, or the same command
again, continues it. Weights, moments of the optimisers and the position in the data are then compared bit by
bit, and the utterances of all steps that count: those of the uninterrupted run, each once an epoch.
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
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from bench import report
from bench.dying import PLACES
from distill.checkpoints import native, safe_pickle
from distill.hubert import HubertEncoder
from distill.student import Student
from distill.waveforms import SAMPLE_RATE

ROOT = Path(__file__).parents[1]
STEPS_A_KILL, VALIDATE_EVERY = 3, 2
SPEECH, NOISES = 12, 3
COMPARED = (
    "state_dict",
    "optimizer_states",
    "classifier_optimizer",
    "lr_schedulers",
    "SpeechData",
    "HeadData",
)
"""Parts of a checkpoint; those that a kind does not have are None in both."""
KINDS = ("distil", "adapt", "spiral", "heads")


def main(arguments: list[str]) -> int:
    """Train, kill, resume, compare, print."""
    options = _parser().parse_args(arguments)
    environment = report.environment()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.kills, options.seed, options.kind)
    text = f"{report.heading(environment)}\n\n{as_text(found)}"
    print(text)
    report.write(options, {"environment": environment} | found, text)
    return 0 if found["identical"] and not found["twice"] else 1


def measure(folder: Path, kills: int, seed: int, kind: str = "distil") -> dict[str, Any]:
    """Both runs, and what came of them."""
    words = command(folder, kind, STEPS_A_KILL * (kills + 1))
    whole, killed = folder / "whole", folder / "killed"
    run(folder / "whole.jsonl", "never", 0, [*words, "--out", str(whole)])
    rng, notes = random.Random(seed), folder / "killed.jsonl"
    for number, place in zip(range(kills), itertools.cycle(PLACES)):
        step = STEPS_A_KILL * number + rng.randrange(STEPS_A_KILL)
        run(notes, place, step, _begin_or_resume(killed, words), dies=True)
    run(notes, "never", 0, _begin_or_resume(killed, words))
    lives = read_notes(notes)
    deaths = [life for life in lives if "died" in life]
    starts = [life for life in lives if "began" in life]
    repeated = [death["died"] - start["began"] for death, start in zip(deaths, starts[1:], strict=True)]
    differing = differences(last_of(whole), last_of(killed))
    if lineage(lives) != lineage(read_notes(folder / "whole.jsonl")):
        differing.append("utterances")
    return {
        "kind": kind,
        "kills": [death["place"] for death in deaths],
        "steps": STEPS_A_KILL * (kills + 1),
        "validate_every": VALIDATE_EVERY,
        "repeated_steps": repeated,
        "resume_s": [start["after_s"] for start in starts[1:]],
        "utterances": sum(len(step["ids"]) for step in lineage(lives)),
        "twice": [] if kind == "heads" else twice(lineage(lives)),  # batches of keywords are drawn
        "differences": differing,
        "identical": not differing,
    }


def read_notes(path: Path) -> list[dict[str, Any]]:
    """What `bench.dying` has noted."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def lineage(lives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The steps that the final model is made of: those that were lost by a kill were made again."""
    steps: list[dict[str, Any]] = []
    for life in lives:
        if "began" in life:
            steps = steps[: life["began"]]
        elif "step" in life:
            steps.append(life)
    if [step["step"] for step in steps] != list(range(1, len(steps) + 1)):
        raise RuntimeError(f"steps are missing or out of order: {[step['step'] for step in steps]}")
    return steps


def twice(steps: list[dict[str, Any]]) -> list[str]:
    """Utterances that an epoch holds more than once."""
    counts = Counter((step["epoch"], name) for step in steps for name in step["ids"])
    return [f"{name} in epoch {epoch}" for (epoch, name), count in counts.items() if count > 1]


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
    if words[0] != "evaluate" and (out / "checkpoints" / "last.ckpt").is_file():
        return [words[0], "--resume", str(out)]
    return [*words, "--out", str(out)]


def last_of(out: Path) -> Path:
    """The last checkpoint of a run, or of the head of an evaluation."""
    (path,) = [*out.glob("checkpoints/last.ckpt"), *out.glob("heads/*/checkpoints/last.ckpt")]
    return path


def command(folder: Path, kind: str, steps: int) -> list[str]:
    """The command of a run that makes a step in a tenth of a second, and its data."""
    rng, rows = np.random.default_rng(0), ["path\tlabel"]
    for what, count, seconds in (("speech", SPEECH, 1), ("noise", NOISES, 2)):
        (folder / what).mkdir()
        for number in range(count):
            samples = 0.1 * rng.standard_normal(seconds * SAMPLE_RATE + 800 * number)
            soundfile.write(folder / what / f"{number}.wav", samples, SAMPLE_RATE)
            rows += [f"{number}.wav\tword{number % 3}"] * (what == "speech")
    (folder / "speech" / "list.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return _head(folder, steps) if kind == "heads" else _recipe(folder, kind, steps)


def _recipe(folder: Path, kind: str, steps: int) -> list[str]:
    noises = f"{{musan: [{folder}/noise], wham: [{folder}/noise], dns: [{folder}/noise]}}"
    own = {
        "distil": ["train", "s6", "teacher=random:mini", "student.targets=[2,4,6]"],
        "adapt": ["adapt", "mini_teacher", "teacher=random:mini", "targets.clusters=10", "distort=true"],
        "spiral": [
            "train",
            "spiral_mini_mct",
            "teacher=random:spiral_mini",
            "heads.dim=16",
            "data.min_samples=0",
        ],
    }[kind]
    return [
        *own,
        *(f"optim.max_steps={steps}", f"validation.every_n_steps={VALIDATE_EVERY}"),
        *(f"data.train=[{folder}/speech]", f"data.dev=[{folder}/speech]"),
        *(f"data.noises={noises}", f"data.dev_noises={noises}"),
        *("data.workers=0", "data.batch_size=5", "data.batch_seconds=null", "data.max_samples=16000"),
        *("logging.wandb=off", "logging.every_n_steps=1", "trainer.accelerator=cpu"),
    ]


def _head(folder: Path, steps: int) -> list[str]:
    """Keyword spotting on a random student, with a feature cache."""
    torch.manual_seed(0)
    student = Student.from_teacher(HubertEncoder.from_preset("mini"), layers=1, targets=(2, 4))
    native.write(student, folder / "student")
    speech = folder / "speech" / "list.tsv"
    return [
        *("evaluate", "ks", "--student", str(folder / "student"), "--condition", "clean"),
        *(f"sources={{train: {speech}, dev: {speech}, test: {speech}}}", "label=label"),
        *(f"steps={steps}", f"every_n_steps={VALIDATE_EVERY}", "batch_size=5", "crop_s=0", "width=16"),
        *("workers=0", "cache=float32", "logging.wandb=off", "logging.every_n_steps=1"),
        *("trainer.accelerator=cpu", "trainer.devices=1"),
    ]


def differences(one: Path, other: Path) -> list[str]:
    """What is not the same, bit by bit, in two checkpoints."""
    a, b = (safe_pickle.load(path) for path in (one, other))
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
        ["kind", found["kind"]],
        ["kills", f"{len(kills)} ({places})"],
        ["steps of the run, validated (and saved) every", f"{found['steps']}, {found['validate_every']}"],
        ["weights, moments and data at the end", end],
        ["utterances trained on; twice in an epoch", f"{found['utterances']}, {len(found['twice'])}"],
        ["steps made again: in all, at most after one kill", f"{sum(repeated)}, {max(repeated, default=0)}"],
        ["seconds from starting the process to training", report.spread(found["resume_s"], 1)],
    ]
    return report.rows_to_markdown(("runs that are killed", "measured"), rows)


def _parser() -> argparse.ArgumentParser:
    parser = report.make_parser("resume", __doc__)
    parser.add_argument("--kills", type=report.positive, default=20, help="of the run (%(default)s)")
    parser.add_argument("--kind", choices=KINDS, default="distil", help="of run (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the steps to kill at (%(default)s)")
    return parser
