"""Where the time of a step goes, with no data and no libraries but torch and Lightning.

    python -m bench where
    python -m bench where --device cuda --batch 24xlibrispeech --json where.json

Ours with setup2 and DAT, in Lightning's loop. The parts of a step are marked from outside, on a GPU by events
in its stream; the distortions' share is to stay below 5 % there. A few more steps run under torch's profiler,
which names the operators that take longest and, on a GPU, counts kernels launched and the host's waits. For a
recipe with its own data there is `distill profile`.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench import report
from bench.batches import batch_of
from bench.contenders import synchronize
from bench.ours import N_PLANS, PRECISION, TARGETS, Loop, make_loop

PARTS = {
    "distort": "distortions",
    "teacher_features": "teacher",
    "manual_backward": "backward",
    "_step_student": "optimiser",
    "_teach_classifier": "classifier",
    "_adversarial_loss": "classifier",
    "_step_classifier": "classifier",
}
"""Methods of `Distillation`, and what they are a part of."""
STUDENT, OTHER = "student forward", "loss, other"
WARM_UP, PROFILED, TOP = N_PLANS + 1, 3, 15
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
"""Calls of the CUDA runtime in which the host waits."""


def main(arguments: list[str]) -> int:
    """Measure and print."""
    options = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    environment = report.environment()
    precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    speech = batch_of(options.batch or {"cpu": "4x5padded", "cuda": "24xlibrispeech"}[options.device])
    common = {"device": options.device, "precision": precision, "preset": options.preset}
    loop, run = make_loop(speech, **common, cdm="setup2", dat=True)
    found = {"batch": speech.name, "audio_s": speech.audio_s, **common}
    found |= parts_of(loop, run, options.device, options.rounds)
    found |= operators(loop, run, options.device)
    text = f"{report.heading(environment)}\n\n{as_text(found)}"
    print(text)
    report.write(options, {"environment": environment} | found, text)
    return 0


def parts_of(loop: Loop, run: Callable[[int], object], device: str, steps: int) -> dict[str, Any]:
    """Milliseconds of the parts of a step by round; nothing waits between the marks."""
    spans: list[tuple[str, Any, Any]] = []

    def mark() -> Any:
        if device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def timed(original: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = mark()
            result = original(*args, **kwargs)
            spans.append((part, begin, mark()))
            return result

        return call

    module: Any = loop.module
    for method, part in PARTS.items():
        setattr(module, method, timed(getattr(module, method), part))
    module.student.forward = timed(module.student.forward, STUDENT)
    taken: list[dict[str, float]] = []
    for number in range(WARM_UP + steps):
        spans.clear()
        begin = mark()
        run(number)
        end = mark()
        synchronize(device)
        parts: dict[str, float] = defaultdict(float)
        for part, first, last in spans:
            parts[part] += _milliseconds(first, last)
        whole = _milliseconds(begin, end)
        taken.append(parts | {OTHER: whole - sum(parts.values()), "step": whole})
    taken = taken[WARM_UP:]
    return {"parts_ms": {name: [one.get(name, 0.0) for one in taken] for name in taken[0]}}


def operators(loop: Loop, run: Callable[[int], object], device: str) -> dict[str, Any]:
    """The operators that take longest, and on a GPU launches and waits a step."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    profiler = profile(activities=activities)
    loop.call(profiler.start)  # it sees the thread that it is started in
    for number in range(PROFILED):
        run(number)
    loop.call(profiler.stop)
    averages: list[Any] = list(profiler.key_averages())
    attribute = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    ms = {one.key: getattr(one, attribute) / 1000 / PROFILED for one in averages}
    calls = {one.key: one.count / PROFILED for one in averages}
    top = sorted(ms, key=lambda name: -ms[name])[:TOP]
    found: dict[str, Any] = {"operators_ms": {name: ms[name] for name in top}}
    if device == "cuda":
        found["launches"] = sum(calls.get(name, 0) for name in ("cudaLaunchKernel", "cudaLaunchKernelExC"))
        found["waits"] = {name: calls[name] for name in WAITS if name in calls}
        found["copies"] = calls.get("cudaMemcpyAsync", 0)
    return found


def as_text(found: dict[str, Any]) -> str:
    """Tables in Markdown."""
    parts = {name: median(ms) for name, ms in found["parts_ms"].items()}
    step_ms = parts["step"]
    rows = [
        [name, report.spread(found["parts_ms"][name], 1), f"{ms / step_ms:.1%}"] for name, ms in parts.items()
    ]
    operators = [[name[:60], f"{ms:.2f}"] for name, ms in found["operators_ms"].items()]
    title = (
        f"{found['batch']}, {found['precision']}, {found['device']}, setup2 + DAT: "
        f"{1000 * found['audio_s'] / step_ms:.1f} audio-s/s"
    )
    texts = [title, report.rows_to_markdown(("part", "ms a step", "share"), rows)]
    if "launches" in found:
        waits = ", ".join(f"{calls:.1f} {name}" for name, calls in found["waits"].items()) or "none"
        texts.append(
            f"a step: {found['launches']:.0f} launches, {found['copies']:.0f} copies; waits, of which one of "
            f"all steps is the profiler's: {waits}"
        )
    texts.append(report.rows_to_markdown(("operator", "ms a step"), operators))
    return "\n\n".join(texts)


def _milliseconds(begin: Any, end: Any) -> float:
    return 1000 * (end - begin) if isinstance(begin, float) else begin.elapsed_time(end)


def _parser() -> argparse.ArgumentParser:
    parser = report.make_parser("where", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--batch", help="default: 4x5padded on a CPU, 24xlibrispeech on a GPU")
    parser.add_argument("--threads", type=report.positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--precision", choices=tuple(PRECISION), help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--preset", choices=tuple(TARGETS), default="base", help="size (%(default)s)")
    parser.add_argument("--rounds", type=report.positive, default=5, help="steps (%(default)s)")
    return parser
