"""Latency, real-time factor, size and accuracy of the ONNX exports beside the teacher's, on one thread.

    python -m bench onnx-latency
    python -m bench.onnx_latency --student runs/s4 --teacher facebook/hubert-base-ls960 --speech a.wav

Without checkpoints: random weights of the base size, whose speed is that of trained ones.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from bench import report
from bench.distortions import speech_batch
from distill.checkpoints import load_student, load_teacher, onnx
from distill.encoder import Encoder
from distill.errors import CheckpointError
from distill.student import Student
from distill.waveforms import SAMPLE_RATE

SECONDS = (1.0, 5.0, 15.0)
FRONTS = {"student": "cnn", "slim student": "slim", "mel student": "mel"}
"""Students of two layers by their front ends."""


@dataclass
class Contender:
    """A way to run an encoder on one waveform (1, T) -> (1, F, D)."""

    name: str
    encode: Callable[[Tensor], Tensor]
    megabytes: float
    """Of the file."""
    reference: Callable[[Tensor], Tensor]
    """The same encoder in PyTorch, float32."""
    milliseconds: dict[float, list[float]] = field(default_factory=dict)
    """By seconds of speech: each round's CPU time."""
    cosine: float = 1.0
    """Mean over frames, with the reference."""
    relative_error: float = 0.0
    """Norm of the difference over the reference's norm."""

    def median(self, seconds: float) -> float:
        """Milliseconds."""
        return statistics.median(self.milliseconds[seconds])


def main(golden: Path, rounds: int) -> None:
    """Print the table for a teacher and students of the base size, on the stored utterance."""
    torch.manual_seed(0)
    teacher = load_teacher("random:base")
    students = {name: Student.from_teacher(teacher, front=front).eval() for name, front in FRONTS.items()}
    try:
        table = run(teacher, students, speech_batch(golden)[:1], rounds=rounds)
    except CheckpointError as error:  # the extra onnx is not installed
        print(f"onnx-latency skipped: {error}")
    else:
        print_table(table)


@torch.no_grad()
def run(
    teacher: Encoder,
    students: Mapping[str, Student],
    speech: Tensor,
    *,
    seconds: Sequence[float] = SECONDS,
    rounds: int = 7,
) -> list[Contender]:
    """Measure PyTorch, ONNX and int8 of all models in turns, one thread, one utterance.

    Args:
        teacher: in eval mode.
        students: by name, in eval mode.
        speech: (1, T) at 16 kHz; repeated or cut to each duration, and as it is for the accuracy.
        seconds: durations to measure the latency of.
        rounds: the table has medians over these.
    """
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        contenders = _contenders("teacher", teacher, Path(folder))
        for name, student in students.items():
            contenders += _contenders(name, student.encoder, Path(folder))
        for contender in contenders:
            _compare(contender, speech)
        for duration in seconds:
            waves = _of_length(speech, round(duration * SAMPLE_RATE))
            for contender in contenders:
                contender.encode(waves)
            for _ in range(rounds):  # in turns, so that whatever else the machine does affects all alike
                for contender in contenders:
                    # CPU time: with one thread it is the latency of a machine with nothing else to do.
                    started = time.process_time()
                    contender.encode(waves)
                    elapsed = 1000 * (time.process_time() - started)
                    contender.milliseconds.setdefault(duration, []).append(elapsed)
    return contenders


def _contenders(name: str, encoder: Encoder, folder: Path) -> list[Contender]:
    path = onnx.write(encoder, folder / f"{name}.onnx")
    int8 = onnx.int8_path(path)

    def in_torch(waves: Tensor) -> Tensor:
        return encoder(waves).last_hidden_state

    weights = sum(4 * parameter.numel() for parameter in encoder.parameters()) / 1e6
    return [
        Contender(f"{name}, PyTorch", in_torch, weights, in_torch),
        Contender(f"{name}, ONNX", in_runtime(path), path.stat().st_size / 1e6, in_torch),
        Contender(f"{name}, ONNX int8", in_runtime(int8), int8.stat().st_size / 1e6, in_torch),
    ]


def in_runtime(path: Path) -> Callable[[Tensor], Tensor]:
    """What runs a file on one thread: waveforms (1, T) -> (1, F, D)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def encode(waves: Tensor) -> Tensor:
        lengths = np.full(len(waves), waves.shape[1], dtype=np.int64)
        outputs: Any = session.run(None, {"waveforms": waves.numpy(), "lengths": lengths})
        return torch.from_numpy(outputs[0])

    return encode


def _compare(contender: Contender, speech: Tensor) -> None:
    expected, found = contender.reference(speech), contender.encode(speech)
    contender.cosine = torch.cosine_similarity(expected, found, dim=2).mean().item()
    difference = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    contender.relative_error = difference.item()


def _of_length(speech: Tensor, n_samples: int) -> Tensor:
    repeats = -(-n_samples // speech.shape[1])
    return speech.repeat(1, repeats)[:, :n_samples].contiguous()


def print_table(contenders: Sequence[Contender]) -> None:
    """Medians; real-time factor and speed-up over the teacher in float32 ONNX are of the longest duration."""
    durations = sorted(contenders[0].milliseconds)
    longest = durations[-1]
    rounds = len(contenders[0].milliseconds[longest])
    teacher = contenders[1].median(longest)  # in ONNX, float32
    columns = "".join(f"{f'{seconds:g} s':>9}" for seconds in durations)
    print(f"{f'ms on one thread, median of {rounds}':30}{columns}{'RTF':>8}{'x teacher':>11}", end="")
    print(f"{'MB':>8}{'cosine':>10}{'rel. error':>12}")
    for contender in contenders:
        times = "".join(f"{contender.median(seconds):9.1f}" for seconds in durations)
        factor = contender.median(longest) / 1000 / longest
        speedup = teacher / contender.median(longest)
        print(f"{contender.name:30}{times}{factor:8.4f}{speedup:11.2f}", end="")
        print(f"{contender.megabytes:8.1f}{contender.cosine:10.5f}{contender.relative_error:12.2e}")


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.onnx_latency", description=__doc__)
    parser.add_argument("--student", required=True, help="a student's checkpoint or run folder")
    parser.add_argument("--teacher", required=True, help="its teacher's")
    parser.add_argument("--speech", type=Path, required=True, help="a recording, 16 kHz")
    parser.add_argument("--rounds", type=report.positive, default=7, help="rounds to take the median of (7)")
    options = parser.parse_args()
    student, teacher = load_student(options.student), load_teacher(options.teacher)
    samples, rate = soundfile.read(options.speech, dtype="float32")
    if rate != SAMPLE_RATE or samples.ndim != 1:
        parser.error(f"{options.speech} has {rate} Hz, expected one channel at {SAMPLE_RATE} Hz")
    print_table(run(teacher, {"student": student}, torch.from_numpy(samples)[None], rounds=options.rounds))


if __name__ == "__main__":
    _main()
