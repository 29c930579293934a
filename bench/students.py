"""What students cost a device: parameters, arithmetic, real-time factor of their ONNX exports, size.

    python -m bench students
    python -m bench students --json students.json --rounds 9

Random weights of the base size (768 features, two layers), whose speed is that of trained ones; one thread,
one utterance. What changes only the training (objectives, distortions, adapted teachers) costs nothing here.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench import report
from bench.onnx_latency import in_runtime
from distill.checkpoints import load_teacher, onnx
from distill.student import Student
from distill.training.flops import forward
from distill.waveforms import SAMPLE_RATE

_THIN: dict[str, Any] = {
    "layers": 12,
    "dim": 432,
    "ffn_dim": 816,
    "layer_to_layer": True,
    "targets": range(1, 13),
}
STUDENTS: dict[str, dict[str, Any]] = {
    "cnn": {},
    "cnn, attention reused": {"reuse_attention": True},
    "slim": {"front": "slim"},
    "mel": {"front": "mel"},
    "mel, attention reused": {"front": "mel", "reuse_attention": True},
    "mel, one layer": {"front": "mel", "layers": 1},
    "mel, three layers": {"front": "mel", "layers": 3},
    "cnn, 12 thin layers": _THIN,
    "slim, 12 thin layers": {"front": "slim", **_THIN},
    "mel, 12 thin layers": {"front": "mel", **_THIN},
}
"""By name: the options of `Student.from_teacher`, the section `student` of a recipe."""


def main(arguments: Sequence[str]) -> int:
    """Measure, and print the table."""
    parser = report.make_parser("students", __doc__)
    parser.add_argument("--rounds", type=report.positive, default=7, help="rounds to take the median of (7)")
    parser.add_argument("--seconds", type=report.positive, default=15, help="of the utterance (15)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    students = run(STUDENTS, seconds=options.seconds, rounds=options.rounds)
    text = f"{report.heading(report.environment())}\n\n{to_markdown(students)}"
    print(text)
    report.write(options, {"environment": report.environment(), "students": students}, text)
    return 0


@torch.no_grad()
def run(
    students: Mapping[str, Mapping[str, Any]],
    *,
    seconds: int = 15,
    rounds: int = 7,
    teacher: str = "random:base",
) -> dict[str, dict[str, Any]]:
    """Sizes, arithmetic and real-time factors, measured in turns.

    Args:
        students: by name, their options.
        seconds: of the utterance.
        rounds: to take the median of.
        teacher: that they are students of.

    Returns:
        By name: "parameters" of the encoder, "gmac_per_s" of audio, "megabytes" and "rtf", by precision, the
        latter a list over rounds.
    """
    found: dict[str, dict[str, Any]] = {}
    runners: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {}
    waves = torch.randn(1, seconds * SAMPLE_RATE)
    parent = load_teacher(teacher)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, choices) in enumerate(students.items()):
            encoder = Student.from_teacher(parent, **choices).eval().encoder
            work = forward(encoder.config, torch.tensor([waves.shape[1]]))
            path = onnx.write(encoder, Path(folder) / f"{number}.onnx")
            files = {"float32": path, "int8": onnx.int8_path(path)}
            found[name] = {
                "parameters": sum(parameter.numel() for parameter in encoder.parameters()),
                "gmac_per_s": (work.first + work.rest) / seconds / 1e9,
                "megabytes": {precision: file.stat().st_size / 1e6 for precision, file in files.items()},
                "rtf": {precision: [] for precision in files},
            }
            runners |= {(name, precision): in_runtime(file) for precision, file in files.items()}
        for count in range(rounds + 1):  # the first is not counted
            for (name, precision), encode in runners.items():
                # CPU time: with one thread it is the latency of a machine with nothing else to do.
                started = time.process_time()
                encode(waves)
                if count:
                    found[name]["rtf"][precision].append((time.process_time() - started) / seconds)
    return found


def to_markdown(students: Mapping[str, Mapping[str, Any]]) -> str:
    """Medians, least and most in brackets; speed beside that of the first student in int8."""
    first = statistics.median(next(iter(students.values()))["rtf"]["int8"])
    header = ("", "parameters", "GMAC/s", "RTF float32", "RTF int8", "x first, int8", "MB float32", "MB int8")
    rows = [
        (
            name,
            f"{found['parameters'] / 1e6:.1f} M",
            f"{found['gmac_per_s']:.2f}",
            report.spread(found["rtf"]["float32"], 4),
            report.spread(found["rtf"]["int8"], 4),
            f"{first / statistics.median(found['rtf']['int8']):.2f}",
            f"{found['megabytes']['float32']:.1f}",
            f"{found['megabytes']['int8']:.1f}",
        )
        for name, found in students.items()
    ]
    return report.rows_to_markdown(header, rows)
