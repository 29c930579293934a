"""The losses of a training on every path: as trained, plainly in the same precision, plainly in float32.

    python -m bench losses
    python -m bench losses --device cuda --steps 200 --json losses.json

One student, initialised once, is trained three times on the same batches without dropout: by `Distillation`
in Lightning's loop, and by a plain loop of PyTorch without autocast's help for the teacher, fused optimisers
or shortcuts for full rows. How far the plain loop in bf16 is from the plain one in float32 is what the
precision alone changes: ours may be no further from the plain one in bf16 than that.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from bench import report
from bench.batches import Speech, batch_of, speech
from bench.ours import PRECISION, TARGETS, Loop
from distill.batch import Batch
from distill.distillation import Distillation
from distill.hubert import HubertEncoder
from distill.objective import distillation_loss
from distill.optim import OptimConfig
from distill.student import Student

N_BATCHES = 8
"""Different ones, in turn."""


def main(arguments: list[str]) -> int:
    """Train three times, compare, print."""
    options = _parser().parse_args(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    environment = report.environment()
    found = measure(options.device, precision, options.preset, options.batch, options.steps)
    text = f"{report.heading(environment)}\n\n{as_text(found)}"
    print(text)
    report.write(options, {"environment": environment} | found, text)
    return 0 if found["within_noise"] else 1


def measure(device: str, precision: str, preset: str, batch: str, steps: int) -> dict[str, Any]:
    """The losses of three trainings, and how far they are apart."""
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset(preset).eval()
    none = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
    student = Student.from_teacher(teacher, targets=TARGETS[preset], **none)  # pyright: ignore
    batches = several(batch_of(batch))
    losses = {
        "ours": ours(teacher, student, batches, steps, device, precision),
        f"plain, {precision}": plain(teacher, student, batches, steps, device, precision),
        "plain, fp32": plain(teacher, student, batches, steps, device, "fp32"),
    }
    same, exact = losses[f"plain, {precision}"], losses["plain, fp32"]
    apart, noise = largest(losses["ours"], same), largest(same, exact)
    bound = max(noise, 1e-4)  # rounding grows over the steps in float32, too
    return {
        **{"device": device, "precision": precision, "preset": preset, "batch": batch, "steps": steps},
        **{"losses": losses, "apart": apart, "noise": noise, "within_noise": apart <= bound},
    }


def several(first: Speech) -> list[Speech]:
    """Batches of the same lengths and other samples."""
    made = []
    for number in range(N_BATCHES):
        lengths = first.lengths.tolist()
        other = speech(first.name, lengths)
        mixed = other.waveforms.roll(1601 * number, 1) * (other.waveforms != 0)
        made.append(Speech(first.name, mixed, other.lengths))
    return made


def ours(
    teacher: HubertEncoder, student: Student, batches: list[Speech], steps: int, device: str, precision: str
) -> list[float]:
    """In Lightning's loop."""
    module = Distillation(copy.deepcopy(teacher), copy.deepcopy(student))
    losses: list[Tensor] = []
    collect = module._collect

    def noting(parts: dict[str, Tensor]) -> None:
        losses.append(parts["train/loss"].detach().clone())
        collect(parts)

    module._collect = noting  # pyright: ignore[reportAttributeAccessIssue]
    loop = Loop(module, device=device, precision=precision)
    for step in range(steps):
        one = batches[step % len(batches)]
        loop.step(Batch([str(row) for row in range(len(one.lengths))], one.waveforms, one.lengths))
    values = [float(loss) for loss in losses]
    loop.close()
    return values


def plain(
    teacher: HubertEncoder, student: Student, batches: list[Speech], steps: int, device: str, precision: str
) -> list[float]:
    """A loop that anybody would write."""
    options = OptimConfig()
    teacher = copy.deepcopy(teacher).requires_grad_(False).to(device)
    student = copy.deepcopy(student).to(device).train()
    parameters = list(student.parameters())
    optimizer = torch.optim.AdamW(
        parameters, options.lr, options.betas, options.eps, options.weight_decay, foreach=False
    )
    losses = []
    for step in range(steps):
        one = batches[step % len(batches)]
        waves, lengths = one.waveforms.to(device), one.lengths.to(device)
        for group in optimizer.param_groups:
            group["lr"] = options.lr * options.schedule(step + 1)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                states = teacher(waves, lengths).hidden_states
            out = student(waves, lengths)
            targets = torch.stack([states[layer] for layer in student.targets], dim=1)
            loss = distillation_loss(out.predictions, targets, out.lengths).total
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        optimizer.step()
        losses.append(loss.detach())
    return [float(loss) for loss in losses]


def largest(one: list[float], other: list[float]) -> float:
    """The largest difference of two losses, as a share of the second."""
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def as_text(found: dict[str, Any]) -> str:
    """The table in Markdown."""
    places = [0, found["steps"] // 4, found["steps"] // 2, found["steps"] - 1]
    rows = [[name, *(f"{losses[step]:.5f}" for step in places)] for name, losses in found["losses"].items()]
    verdict = "within" if found["within_noise"] else "BEYOND"
    return (
        f"{found['batch']}, {found['device']}, {found['steps']} steps\n\n"
        f"{report.rows_to_markdown(('loss at step', *(str(step + 1) for step in places)), rows)}\n\n"
        f"Ours is {found['apart']:.2e} from the plain loop in {found['precision']}, which is "
        f"{found['noise']:.2e} from float32 (largest relative differences): {verdict} what precision changes."
    )


def _parser() -> argparse.ArgumentParser:
    parser = report.make_parser("losses", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--batch", default="4x2padded", help="(%(default)s)")
    parser.add_argument("--threads", type=report.positive, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--precision", choices=tuple(PRECISION), help="default: fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--preset", choices=tuple(TARGETS), default="mini", help="size (%(default)s)")
    parser.add_argument("--steps", type=report.positive, default=200, help="(%(default)s)")
    return parser
