"""What evaluations leave behind, one JSON file each, and the numbers of the paper to set beside them.

The paper is Huang et al., "Improving generalizability of distilled self-supervised speech processing models
under distorted settings".
"""

from __future__ import annotations

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from distill.atomic import write_text
from distill.errors import UsageError, UserError
from distill.processes import is_follower

logger = logging.getLogger(__name__)

_HEAD = "head.json"
MENDING = "mending"
"""In a head's record: where audio lies that may be mended."""
AUDIO = ("training audio",)
"""Of a head's record, what its recordings hold."""

METRICS = {
    "accuracy": "accuracy in %, higher is better",
    "f1": "F1 in %, higher is better",
    "wer": "word error rate in %, lower is better",
    "per": "phoneme error rate in %, lower is better",
}
CONDITIONS = ("clean", "test-other", "2-dist", "fsd", "dns", "chime3")
"""In the paper's order."""

ABOUT = ("domain_adapted_teacher", "parameters")
"""What the paper says about a row, besides its model and scores."""

PAPER_TASKS = ("ks", "ic", "er", "asr")
"""Those of its tables."""

TEST_UTTERANCES: dict[str, dict[str, int]] = {
    "ks": {"": 3_081},
    "ic": {"": 3_793},
    "er": {f"fold {fold}": count for fold, count in enumerate((1_085, 1_023, 1_151, 1_031, 1_241), 1)},
    "asr": {"": 2_620, "test-other": 2_939, "chime3": 1_320},
    "pr": {"": 2_620},
    "slurp_action": {"": 13_078},
    "slurp_scenario": {"": 13_078},
}
"""Of the test sets, by task and condition ("": all others) or fold.

ER: turns of IEMOCAP's sessions in the four classes, 5 531 in all. PR: LibriSpeech's test-clean. SLURP:
recordings of its test split (Bastianelli et al. 2020).
"""

_PAPER_COLUMNS = {"2-dist": "2dist", "test-other": "other"}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One evaluation of one student under one condition, as its JSON file says it."""

    task: str
    """ks, ic, er, asr, pr, slurp_action, slurp_scenario."""
    condition: str
    """clean, 2-dist, fsd, dns, test-other, chime3."""
    metric: str
    """A key of `METRICS`."""
    value: float
    """In per cent."""
    seed: int
    """Of the head."""
    fold: int | None
    """Of IEMOCAP; None elsewhere."""
    lm: bool
    """Whether a language model helped to decode."""
    features: str
    """What the head heard: last, weighted_sum, layer:k."""
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
    """When, ISO 8601."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else it depends on (`EvaluationConfig.settings`, `TaskSpeech.test_data`)."""
    protocol: str = "paper"
    """Whose values the head was trained with where nothing else was said: paper, s3prl."""
    variant: str = "paper"
    """Whose distortions the test speech got: paper, authors."""
    dev: float | None = None
    """The chosen head's score on dev, in the metric of `value`; None: of an earlier version."""
    row: str | None = None
    """Row of the paper's tables that the user put the model into; None: the recipe says which."""
    silent: dict[str, int] = field(default_factory=dict)
    """Clips of the test that were silent, so that they could not be applied: speech, noise, rir."""
    predictions: str | None = None
    """Where each utterance's outcome is, a file below the folder that holds `results`."""


def read_results(folders: Iterable[Path]) -> list[Result]:
    """All results below some folders (every `results/*.json`); damaged or foreign files are warned about.

    Their `predictions` are whole paths, or None where the file is not there.

    Args:
        folders: run folders, outputs of evaluations or of a whole sweep.

    Raises:
        UserError: for a folder that does not exist.
    """
    paths: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder: name folders that `distill evaluate` wrote")
        own = folder.glob("*.json") if folder.name == "results" else ()
        paths |= {path.resolve() for path in (*own, *folder.rglob("results/*.json"))}
    results = []
    for path in sorted(paths):
        try:
            result = parse_result(json.loads(path.read_text(encoding="utf-8")))
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
    """A result from what its JSON holds; other keys are ignored.

    Args:
        values: of an earlier version, too: what came later has a default.

    Raises:
        ValueError: naming the field that is missing or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    for entry in fields(Result):
        if entry.name not in values:
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise ValueError(f"no {entry.name!r}")
            continue
        value, kind = values[entry.name], str(entry.type)
        allowed = {"str": str, "int": int, "float": int | float, "bool": bool, "dict": dict}
        optional = kind.endswith(" | None")
        plain = kind.removesuffix(" | None").partition("[")[0]
        fits = isinstance(value, allowed[plain]) or (optional and value is None)
        if not fits or (isinstance(value, bool) and kind != "bool"):  # to Python True is an int
            raise ValueError(f"{entry.name} is {value!r}")
    for name in ("value", "dev"):
        if not math.isfinite(values.get(name) or 0.0):
            raise ValueError(f"{name} is {values[name]}")
    if values["metric"] not in METRICS:
        raise ValueError(f"metric is {values['metric']!r}; there are {', '.join(METRICS)}")
    return Result(**{field.name: values[field.name] for field in fields(Result) if field.name in values})


def describe_silent(silent: Mapping[str, int]) -> str:
    """A `Result.silent` for people; "" if nothing was silent."""
    whats = {"speech": "silent speech", "noise": "silent noise", "rir": "a silent room response"}
    counts = ", ".join(f"{silent[part]} with {what}" for part, what in whats.items() if silent.get(part))
    return f"{counts} stayed without noise or room" if counts else ""


def check_settings(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Refuse scores of other settings; what was not noted with them is not asked about.

    Raises:
        UserError: naming what differs.
    """
    differing = [key for key, value in wanted.items() if found.get(key, value) != value]
    if differing:
        raise UserError(
            f"{where} was measured with other {' and '.join(differing)}: choose another --out, or remove it"
        )


def read_head(folder: Path) -> dict[str, Any]:
    """What was noted with a head; nothing of one that is not begun."""
    path = folder / _HEAD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def sign_head(folder: Path, identity: Mapping[str, Any], *, places: str = "") -> None:
    """Note what a head is of.

    Args:
        folder: of the head.
        identity: what makes a head that head.
        places: of where its audio lies: what was found broken may be mended there (`allow_mending`).

    Raises:
        UserError: if the folder has the head of something else.
    """
    identity = json.loads(json.dumps(identity))  # tuples become lists
    found = read_head(folder)
    mended = bool(places) and found.get(MENDING) == places
    check_head(folder, {key: value for key, value in identity.items() if not (mended and key in AUDIO)})
    if (mended or not found) and not is_follower():
        write_text(folder / _HEAD, json.dumps(identity, indent=2) + "\n")


def allow_mending(folder: Path, places: str) -> None:
    """Note that a training stopped as too much of its audio is unusable: it goes on with what is mended."""
    if (head := read_head(folder)) and not is_follower():
        write_text(folder / _HEAD, json.dumps(head | {MENDING: places}, indent=2) + "\n")


def check_head(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a head of something else; what was not noted with it is not asked about.

    Args:
        folder: of the head; one that is not begun may be anything.
        wanted: all or part of what makes a head that head.

    Raises:
        UserError: naming what differs.
    """
    found = read_head(folder)
    differing = [key for key, value in wanted.items() if found.get(key, value) != value]
    if differing:
        raise UserError(
            f"{folder} has a head of other {' and '.join(differing)}: choose another --out, or remove it"
        )


def size_of_test(task: str, condition: str, fold: int | None) -> int | None:
    """How many utterances the published test set has; None: not known."""
    known = TEST_UTTERANCES.get(task, {})
    return known.get(f"fold {fold}", known.get(condition, known.get("")))


def paper_row(name: str) -> str:
    """The name of a row of the paper's tables: "S4'" for S4', s4' or s4_prime.

    Raises:
        UsageError: if there is none.
    """
    rows = list(paper_numbers("ks"))
    if (found := name.upper().replace("_PRIME", "'")) not in rows:
        raise UsageError(f"row {name!r}: the paper's tables have {', '.join(rows)}")
    return found


def put_into_row(paths: Iterable[Path], row: str) -> None:
    """Note the row in results that were there already and say another one, or none.

    Args:
        paths: of results.
        row: as `paper_row` gives it.
    """
    for path in paths:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("row") != row:
            write_text(path, json.dumps(values | {"row": row}, indent=2) + "\n")
            logger.warning("%s: now in row %s, not %s", path.stem, row, values.get("row") or "its recipe's")


def paper_numbers(task: str, *, lm: bool = False) -> dict[str, dict[str, str]]:
    """The paper's rows (T1, T1', S1, ...) of one of its tasks.

    Args:
        task: ks, ic, er or asr.
        lm: ASR with a language model.

    Returns:
        By row: the number as printed by condition, and `model`, `domain_adapted_teacher`, `parameters`.
    """
    asr = task == "asr"
    name = "table2_asr_wer.csv" if asr else "table1_ks_ic_er_accuracy.csv"
    text = (resources.files("distill.recipes") / "paper" / name).read_text(encoding="utf-8")
    rows = {}
    for line in csv.DictReader(io.StringIO(text)):
        rows[line["row"]] = {key: line[key] for key in ("model", *ABOUT)}
        for condition in CONDITIONS:
            column = _PAPER_COLUMNS.get(condition, condition)
            column = column + "_lm" * lm if asr else f"{task}_{column}"
            if column in line:
                rows[line["row"]][condition] = line[column]
    return rows
