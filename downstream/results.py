"""Results of evaluations: a JSON file for each condition, `results/NAME.json`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

from distill.atomic import complete, read_json, write_json
from distill.downstream.finding import find_below
from distill.downstream.result_schema import Settings, check, check_percent, shortened
from distill.errors import UserError

logger = logging.getLogger(__name__)

MOST_BYTES = 1 << 20
"""Of the file of a result; ours have up to 10 KiB."""

FINETUNED = "finetune"
"""Task of word error rates of fine-tuned models; they have tables of their own."""

METRICS = {
    "accuracy": "accuracy in %, higher is better",
    "f1": "F1 in %, higher is better",
    "wer": "word error rate in %, lower is better",
    "per": "phoneme error rate in %, lower is better",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation of one student under one condition, as in its JSON file."""

    task: str
    """ks, ic, er, asr, pr, slurp_action, slurp_scenario; or `FINETUNED`."""
    condition: str
    """clean, 2-dist, fsd, dns, ns, test-other, chime3."""
    metric: str
    """A key of `METRICS`."""
    value: float
    """In per cent."""
    seed: int
    """Of the head."""
    fold: int | None
    """Of IEMOCAP; None elsewhere."""
    lm: bool
    """Whether a language model was used for decoding."""
    features: str
    """The head's input: last, weighted_sum or layer:K, after "finetune:" if the model was trained too."""
    model: str
    """Name of the checkpoint."""
    checkpoint_hash: str
    """Of its weights."""
    recipe: str | None
    """Recipe that made the checkpoint, if known."""
    head_steps: int
    """Updates of the head."""
    n_utterances: int
    """Of the test set."""
    versions: dict[str, str]
    """Of the software."""
    finished: str
    """Time of the test, ISO 8601."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else the value depends on (`EvaluationConfig.settings`, `TaskSpeech.test_data`)."""
    protocol: str = "paper"
    """Whose values the head was trained with by default: paper, s3prl."""
    variant: str = "paper"
    """Variant of the distortions of the test speech: paper, authors."""
    dev: float | None = None
    """The chosen head's score on dev, in the metric of `value`; earlier versions did not note it."""
    row: str | None = None
    """Row of the paper's tables that the user put the model into; None: by the recipe."""
    silent: dict[str, int] = field(default_factory=dict)
    """Number of utterances with silent speech, noise or rir, which thus stayed without noise or room."""
    predictions: str | None = None
    """File with the outcome of each utterance, relative to the folder that holds `results`."""
    recipe_settings: list[str] | None = None
    """The method of the recipe (`distill.config.method`); None: not known."""
    heard: list[str] = field(default_factory=list)
    """Corpora of noise that the model, or a teacher of it, was trained with, as far as it says."""


_HINTS = get_type_hints(Result) | {"settings": Settings}


def read_results(folders: Iterable[Path]) -> list[Result]:
    """All results below some folders (every `results/*.json`); damaged or foreign files are warned about.

    Their `predictions` are absolute paths, or None where the file does not exist.

    Args:
        folders: run folders, outputs of evaluations or of sweeps.

    Raises:
        UserError: for a folder that does not exist.
    """
    paths: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name folders that `distill evaluate` wrote")
        own = complete(folder.glob("*.json")) if folder.name == "results" else ()
        paths |= {path.resolve() for path in (*own, *find_below(folder, "results/*.json"))}
    results = []
    for path in sorted(paths):
        try:
            result = parse_result(read_json(path, most_bytes=MOST_BYTES))
            results.append(replace(result, predictions=_kept_file(path, result.predictions)))
        except (OSError, ValueError) as error:  # broken JSON and UTF-8 are ValueErrors, too
            logger.warning("skipped %s: not a result of an evaluation (%s)", path, error)
    return results


def _kept_file(result: Path, name: str | None) -> str | None:
    """The file that a result names, if it is below the folder that holds `results`."""
    if name is None:
        return None
    home = result.parent.parent.resolve()
    try:
        file = (home / name).resolve()
        return str(file) if file.is_relative_to(home) and file.is_file() else None
    except (OSError, ValueError):  # no name of a file
        return None


def parse_result(values: Any) -> Result:
    """A result from the contents of its JSON file; unknown keys are ignored.

    Args:
        values: of this or an earlier version: fields that were added later have defaults.

    Raises:
        ValueError: naming the field that is missing, of another type or out of range.
    """
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    for entry in fields(Result):
        if entry.name in values:
            check(values[entry.name], _HINTS[entry.name], entry.name)
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"no {entry.name!r}")
    if values["metric"] not in METRICS:
        raise ValueError(f"metric is {shortened(values['metric'])}; there are {', '.join(METRICS)}")
    for name in ("value", "dev"):
        check_percent(values.get(name), name, error_rate=values["metric"] in ("wer", "per"))
    counts = {"head_steps": values["head_steps"], "n_utterances": values["n_utterances"]}
    for name, number in (counts | values.get("silent", {})).items():
        if number < 0:
            raise ValueError(f"{name} is {number}")
    return Result(**{field.name: values[field.name] for field in fields(Result) if field.name in values})


def describe_silent(silent: Mapping[str, int]) -> str:
    """`Result.silent` in words; "" if nothing was silent."""
    whats = {"speech": "silent speech", "noise": "silent noise", "rir": "a silent room response"}
    counts = ", ".join(f"{silent[part]} with {what}" for part, what in whats.items() if silent.get(part))
    return f"{counts} stayed without noise or room" if counts else ""


def put_into_row(paths: Iterable[Path], row: str) -> None:
    """Write the row into existing results that have another one, or none.

    Args:
        paths: of results.
        row: as `paper_row` gives it.
    """
    for path in paths:
        values = read_json(path)
        if values.get("row") != row:
            write_json(path, values | {"row": row})
            logger.warning("%s: now in row %s, not %s", path.stem, row, values.get("row") or "its recipe's")
