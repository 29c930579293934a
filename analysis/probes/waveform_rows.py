"""Rows of recognition under perturbations: error rates, intervals, differences of models, predictions."""

from __future__ import annotations

import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from distill.analysis.probes.adversarial import Attack
from distill.analysis.probes.perturbations import Perturbation
from distill.analysis.recognition import Recognised, Recogniser
from distill.analysis.record import Row
from distill.atomic import write_text
from distill.downstream.bootstrap import Outcomes, difference_interval, error_rate, interval, read_outcomes
from distill.downstream.predictions import escaped
from distill.errors import UserError

KEY = ("model", "perturbation", "value")
"""Columns that identify a row."""
IDLE = 0.9
"""Share of the time that a CPU spends on a model when it has nothing else to do, at least."""


@dataclass(frozen=True)
class Heard:
    """What a model made of one perturbed utterance."""

    recognised: Recognised
    seconds: float | None
    """Time of the forward pass and greedy decoding; None if no frame was left."""
    cpu_s: float | None
    """Time of the CPU in that, of all threads: less than `seconds` if it worked for others meanwhile."""
    snr_db: float | None
    """Measured; None without speech, change, or where samples moved."""
    unchanged: bool
    """Whether the perturbation left the audio as it was."""
    silent: bool
    """Whether the clean utterance is silent."""


def row_key(row: Row) -> tuple[Any, ...]:
    """What identifies a row."""
    return tuple(row[name] for name in KEY)


def outcomes_of(heard: Mapping[str, Heard], metric: str) -> dict[str, tuple[float, float]]:
    """Errors and units by utterance."""
    return {name: each.recognised.errors[metric] for name, each in heard.items()}


def make_row(
    recogniser: Recogniser,
    perturbation: Perturbation,
    heard: Mapping[str, Heard],
    audio: str,
    others: Sequence[Row],
) -> Row:
    """The row of a model under a perturbation.

    Args:
        recogniser: the model.
        perturbation: what it heard.
        heard: by utterance.
        audio: hash of what it heard.
        others: earlier rows; those of the same perturbation must be of the same audio.

    Raises:
        UserError: if they are not.
    """
    seconds = [each.seconds for each in heard.values() if each.seconds is not None]
    ratios = [each.snr_db for each in heard.values() if each.snr_db is not None]
    row: Row = {
        "model": recogniser.name,
        "identity": recogniser.identity,
        "perturbation": perturbation.name,
        "value": perturbation.value,
        "unit": perturbation.unit,
        "what": perturbation.what,
        "metric": recogniser.metrics[0],
    }
    for metric in recogniser.metrics:
        outcomes = outcomes_of(heard, metric)
        low, high = interval([[outcomes]])
        row |= {metric: error_rate(outcomes), f"{metric}_low": low, f"{metric}_high": high}
    row |= {
        "time_median_s": statistics.median(seconds) if seconds else None,
        "time_mean_s": statistics.fmean(seconds) if seconds else None,
        "busy": _was_busy(recogniser, heard),
        "snr_db": statistics.fmean(ratios) if ratios else None,
        "utterances": len(heard),
        "unchanged": sum(each.unchanged for each in heard.values()),
        "silent": sum(each.silent for each in heard.values()),
        "no_frames": len(heard) - len(seconds),
        "no_gradient": _without_gradient(perturbation, recogniser),
        "machine": machine(recogniser.model.device),
        "audio": audio,
    }
    if not perturbation.per_model:
        _refuse_other_audio(row, others)
    return row


def _was_busy(recogniser: Recogniser, heard: Mapping[str, Heard]) -> bool:
    """Whether the machine did other work while times were taken."""
    times = [(each.cpu_s, each.seconds) for each in heard.values() if each.cpu_s and each.seconds]
    cpu_s, seconds = (sum(part) for part in zip(*times, strict=True)) if times else (0.0, 0.0)
    return recogniser.model.device.type == "cpu" and cpu_s < IDLE * seconds


def _without_gradient(perturbation: Perturbation, recogniser: Recogniser) -> int:
    if not isinstance(perturbation, Attack):
        return 0
    return perturbation.without_gradient[(perturbation.made_on or recogniser).name]


def _refuse_other_audio(row: Row, others: Sequence[Row]) -> None:
    """What is written down earlier must be of the same audio: another version of a library may resample."""
    same = (other for other in others if all(other[k] == row[k] for k in ("perturbation", "value")))
    for other in same:
        if other["audio"] != row["audio"]:
            raise UserError(
                f"{row['perturbation']} {row['value']:g} is other audio now than {other['model']} heard: "
                "choose another --out, or measure both again"
            )


def add_differences(
    rows: Sequence[Row], first: str, outcomes: Mapping[tuple, Outcomes], out: Path | None
) -> bool:
    """Add to rows by how much the error rate exceeds that of another model, with the paired interval.

    Args:
        rows: of all models; changed in place.
        first: name of the model that the others are compared with.
        outcomes: by key of the rows; what is missing is read from the tables of predictions.
        out: their folder.

    Returns:
        Whether a row was changed.
    """
    references = {row_key(row)[1:]: row for row in rows if row["model"] == first}
    changed = False
    for row in rows:
        reference = references.get(row_key(row)[1:])
        if reference is None or row is reference or row.get("against") == first:
            continue
        ours, theirs = (
            outcomes[row_key(each)]
            if row_key(each) in outcomes or out is None
            else read_outcomes(predictions_of(out, each))
            for each in (row, reference)
        )
        low, high = difference_interval(ours, theirs)
        difference = row[row["metric"]] - reference[row["metric"]]
        row |= {"against": first, "difference": difference, "difference_low": low, "difference_high": high}
        changed = True
    return changed


def machine(device: torch.device) -> str:
    """What times were measured on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    name = found[1].strip() if found else platform.processor() or platform.machine()
    count = torch.get_num_threads()
    return f"{name}, {count} thread{'s' * (count > 1)}"


def predictions_of(out: Path, row: Row) -> Path:
    """The table of predictions of a row."""
    model = re.sub(r"\W+", "-", row["model"])
    return (
        out / "predictions" / f"{model}-{row['identity'][:8]}" / f"{row['perturbation']}-{row['value']:g}.tsv"
    )


def write_predictions(path: Path, heard: Mapping[str, Heard]) -> None:
    """What was recognised; `errors` and `count` are of the first metric, as `read_outcomes` wants them."""
    metrics = list(next(iter(heard.values())).recognised.errors)
    columns = [f"{metric}_{part}" for metric in metrics[1:] for part in ("errors", "count")]
    lines = ["\t".join(["id", "truth", "prediction", "errors", "count", *columns, "snr_db", "time_s"])]
    for name, each in sorted(heard.items()):
        texts = [escaped(text) for text in (name, each.recognised.truth, each.recognised.prediction)]
        counts = [f"{number:g}" for metric in metrics for number in each.recognised.errors[metric]]
        measured = ["" if value is None else f"{value:.6g}" for value in (each.snr_db, each.seconds)]
        lines.append("\t".join([*texts, *counts, *measured]))
    write_text(path, "\n".join(lines) + "\n")
