"""Seconds of a distillation step, ours beside other libraries' models in the same run.

    python -m bench step
    python -m bench step --batch 4x5,4x5padded --only ours,torchaudio --threads 2
    python -m bench step --device cuda --json step.json

The step of recipe s4 with random weights: a frozen HuBERT base, a student of two layers with heads for layers
4, 8 and 12; forward passes of both, loss, backward pass, clipping, AdamW. Every round runs every contender
once, in another order; figures are medians over the rounds with least and most. The limit is the time that
the step's multiply-adds would take at the speed of large matrix products, measured in the same rounds;
"of the limit" is the share of that speed that a contender reaches. Peak memory is that of a process of its
own that makes two steps.

On one CPU thread, "theirs / ours" and "of the limit" compare CPU time, which other programs on the machine
change less; otherwise they go by the clock.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from bench import report
from bench.batches import Speech, batch_of
from bench.contenders import Contender, Run, take_turns
from bench.memory import peak_mb
from bench.ours import TARGETS, make_loop
from bench.step_peers import PEERS, make_step
from bench.work import gemm
from distill.distillation import Distillation
from distill.hubert import HubertEncoder
from distill.student import Student
from distill.training.flops import step_flops

OURS: dict[str, dict[str, Any]] = {"ours": {}, "ours, setup2 + DAT": {"cdm": "setup2", "dat": True}}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCHES = {"cpu": "4x5,2x15,4x5padded,2x15padded", "cuda": "24xlibrispeech"}
GAIN = 1.02
"""What a larger batch must bring to be tried further."""


@dataclass(frozen=True)
class Setup:
    """What all contenders of a table share."""

    speech: Speech
    device: str
    precision: str
    preset: str

    def make(self, name: str) -> Run:
        """A contender, ready to step."""
        common: dict[str, Any] = {"device": self.device, "precision": self.precision, "preset": self.preset}
        if name in OURS:
            return make_loop(self.speech, **common, **OURS[name])[1]
        return make_step(PEERS[name], self.speech, **common)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    warnings.filterwarnings("ignore")  # of other libraries, about themselves
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU here")
    torch.set_num_threads(options.threads)
    if options.memory_of:  # in a process of its own
        setup = Setup(batch_of(options.batch), options.device, options.precision, options.preset)
        print(json.dumps(peak_mb(functools.partial(setup.make, options.memory_of), setup.device)))
        return 0
    figures: dict[str, Any] = {"environment": report.environment(), "tables": []}
    texts = [report.heading(figures["environment"])]
    print(texts[0], flush=True)
    for precision in _precisions(options):
        for name in (options.batch or BATCHES[options.device]).split(","):
            setup = Setup(batch_of(name), options.device, precision, options.preset)
            found = measure(setup, chosen(options.only), options.rounds, memory=not options.no_memory)
            figures["tables"].append(found)
            texts.append(as_text(found))
            print(f"\n{texts[-1]}", flush=True)
        if options.search:
            found = search(options.device, precision, options.preset, options.batch or "24xlibrispeech")
            figures.setdefault("search", []).append(found)
            texts.append(search_text(found))
            print(f"\n{texts[-1]}", flush=True)
    report.write(options, figures, "\n\n".join(texts))
    return 0


def chosen(only: str | None) -> list[str]:
    """Contenders whose names begin with one of the given words; all without any."""
    names = [*OURS, *PEERS]
    words = only.split(",") if only else [""]
    return [name for name in names if any(name.startswith(word) for word in words)]


def measure(setup: Setup, names: list[str], rounds: int, *, memory: bool) -> dict[str, Any]:
    """One table: all contenders on one batch in one precision."""
    speech = setup.speech
    contenders = [
        Contender(
            name,
            functools.partial(setup.make, name),
            speech.audio_s,
            setup.device,
            settle=False,
            optional=name not in OURS,
        )
        for name in names
    ]
    product, operations = gemm(setup.device, DTYPES[setup.precision])
    take_turns([*contenders, product], rounds)
    flops = flops_of(setup)
    by_cpu_time = setup.device == "cpu" and torch.get_num_threads() == 1
    rate = operations / median(product.cpu_s if by_cpu_time else product.wall_s)
    rows = []
    for one in contenders:
        row: dict[str, Any] = {"name": one.name, "failure": one.failure}
        if not one.failure:
            row |= {"wall_s": one.wall_s, "cpu_s": one.cpu_s, "step_s": median(one.wall_s)}
            row["compared_s"] = median(one.cpu_s if by_cpu_time else one.wall_s)
            row["of_limit"] = flops / row["compared_s"] / rate
            row["memory"] = memory_in_child(setup, one.name) if memory else None
        rows.append(row)
    return {
        "batch": speech.name,
        "audio_s": speech.audio_s,
        "device": setup.device,
        "precision": setup.precision,
        "preset": setup.preset,
        "rounds": rounds,
        "gemm_flops_per_s": [
            operations / taken for taken in (product.cpu_s if by_cpu_time else product.wall_s)
        ],
        "step_flops": flops,
        "limit_s": flops / rate,
        "rows": rows,
    }


def flops_of(setup: Setup) -> float:
    """Operations of a step of recipe s4."""
    with torch.device("meta"):
        teacher = HubertEncoder.from_preset(setup.preset)
        student = Student.from_teacher(teacher, targets=TARGETS[setup.preset])
    return step_flops(Distillation(teacher, student), setup.speech.lengths)


def memory_in_child(setup: Setup, name: str) -> dict[str, float] | None:
    """Peak memory in MB of a process that makes two steps of one contender."""
    words = ["--memory-of", name, "--batch", setup.speech.name, "--device", setup.device]
    words += ["--precision", setup.precision, "--preset", setup.preset]
    words += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run([sys.executable, "-m", "bench", "step", *words], stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


def as_text(found: dict[str, Any]) -> str:
    """A table in Markdown under a line about what was measured."""
    rates = [rate / 1e9 for rate in found["gemm_flops_per_s"]]
    work = found["step_flops"] / 1e9 / found["audio_s"]
    title = (
        f"{found['batch']} ({found['audio_s']:.1f} s of audio), {found['precision']}, {found['device']}, "
        f"{report.in_rounds(found['rounds'])}. {work:.1f} GFLOP per audio-second; "
        f"GEMM {report.spread(rates, 0)} GFLOP/s; limit {found['limit_s']:.3f} s a step."
    )
    first = next(
        (row["compared_s"] for row in found["rows"] if row["name"] == "ours" and not row["failure"]), None
    )
    rows = [_row(row, first, found["audio_s"]) for row in found["rows"]]
    header = ("contender", "s a step", "CPU-s a step", "audio-s/s", "ours is x", "of the limit", "peak MB")
    return f"{title}\n\n{report.rows_to_markdown(header, rows)}"


def _row(row: dict[str, Any], ours_s: float | None, audio_s: float) -> list[str]:
    if row["failure"]:
        return [row["name"], f"skipped: {row['failure']:.100}", *[""] * 5]
    ratio = f"{row['compared_s'] / ours_s:.2f}" if ours_s else ""
    memory = f"{row['memory']['peak_mb']:.0f}" if row["memory"] else ""
    times = [report.spread(row["wall_s"], 3), report.spread(row["cpu_s"], 3)]
    return [
        *(row["name"], *times, f"{audio_s / row['step_s']:.2f}"),
        *(ratio, f"{row['of_limit']:.0%}", memory),
    ]


def search(device: str, precision: str, preset: str, batch: str) -> dict[str, Any]:
    """Audio-seconds per second with twice the rows until that gains nothing or memory is full."""
    rows, _, kind = batch.split(",")[0].partition("x")
    size, best, tried = int(rows), 0.0, []
    while True:
        name = f"{size}x{kind}"
        try:
            speed = _speed(Setup(batch_of(name), device, precision, preset))
        except (torch.OutOfMemoryError, MemoryError):
            tried.append({"batch": name, "audio_s_per_s": None})
            break
        tried.append({"batch": name, "audio_s_per_s": speed})
        if speed < GAIN * best:
            break
        best, size = speed, 2 * size
    return {"contender": "ours, setup2 + DAT", "device": device, "precision": precision, "tried": tried}


def _speed(setup: Setup, steps: int = 5) -> float:
    """Audio-seconds per second, the median of some steps."""
    kind: Any = OURS["ours, setup2 + DAT"]
    loop, run = make_loop(
        setup.speech, device=setup.device, precision=setup.precision, preset=setup.preset, **kind
    )
    made: Callable[[], Run] = lambda: run  # noqa: E731
    contender = Contender("ours", made, setup.speech.audio_s, setup.device, settle=False)
    contender.run = run
    for number in range(2):
        run(number)
    for number in range(steps):
        contender.measure(number)
    loop.close()
    return setup.speech.audio_s / median(contender.wall_s)


def search_text(found: dict[str, Any]) -> str:
    """A table in Markdown."""
    speeds = [(one["batch"], one["audio_s_per_s"]) for one in found["tried"]]
    rows = [[name, "out of memory" if speed is None else f"{speed:.1f}"] for name, speed in speeds]
    title = f"Best batch of {found['contender']}, {found['precision']}, {found['device']}"
    return f"{title}\n\n{report.rows_to_markdown(('batch', 'audio-s/s'), rows)}"


def _precisions(options: argparse.Namespace) -> list[str]:
    """Those that were asked for; else those that the device is good at."""
    if options.precision:
        return options.precision.split(",")
    if options.device == "cuda":
        return ["bf16"]
    if report.has_native_bf16():
        return ["fp32", "bf16"]
    print(
        "bf16 skipped: this processor has no bfloat16 arithmetic (--precision bf16 measures it all the same)"
    )
    return ["fp32"]


def _batches(words: str) -> str:
    """Names of batches; refuses those that name none."""
    for word in words.split(","):
        try:
            batch_of(word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return words


def _known(what: str, names: Iterable[str]) -> Callable[[str], str]:
    """A check that all words are beginnings of some names."""

    def check(words: str) -> str:
        for word in words.split(","):
            if not any(name.startswith(word) for name in names):
                raise argparse.ArgumentTypeError(f"unknown {what} {word!r}; there are {', '.join(names)}")
        return words

    return check


def _parser() -> argparse.ArgumentParser:
    parser = report.make_parser("step", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument(
        "--batch", type=_batches, help=f"such as {BATCHES['cpu']} (the default on a CPU) or 24xlibrispeech"
    )
    parser.add_argument("--threads", type=report.positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument(
        "--precision",
        type=_known("precision", DTYPES),
        help="fp32, bf16 or fp32,bf16; default: what the device has arithmetic for",
    )
    parser.add_argument("--rounds", type=report.positive, default=5, help="to take medians of (%(default)s)")
    parser.add_argument(
        "--only",
        type=_known("contender", [*OURS, *PEERS]),
        help="contenders by the beginnings of their names: ours,torchaudio",
    )
    parser.add_argument("--preset", choices=tuple(TARGETS), default="base", help="size (%(default)s)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--search", action="store_true", help="also look for the fastest batch size")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser
