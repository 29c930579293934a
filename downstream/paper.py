"""What the paper says: the numbers of its tables and the sizes of the published test sets.

The paper is Huang et al., "Improving generalizability of distilled self-supervised speech processing models
under distorted settings".
"""

from __future__ import annotations

import csv
import io
import math
from importlib import resources

from distill.errors import UsageError

CONDITIONS = ("clean", "test-other", "2-dist", "fsd", "dns", "chime3")
"""In the paper's order."""

ABOUT = ("domain_adapted_teacher", "parameters")
"""Columns about a row of the paper's tables, besides its model and scores."""

PAPER_TASKS = ("ks", "ic", "er", "asr")
"""The tasks of its tables."""

TEST_UTTERANCES: dict[str, dict[str, int]] = {
    "ks": {"": 3_081},
    "ic": {"": 3_793},
    "er": {f"fold {fold}": count for fold, count in enumerate((1_085, 1_023, 1_151, 1_031, 1_241), 1)},
    "asr": {
        "": 2_620,
        "test-other": 2_939,
        **dict.fromkeys(("chime3", "chime3-ch5", "chime3-ch1", "chime3-ch2"), 1_320),
    },
    "pr": {"": 2_620},
    "slurp_action": {"": 13_078},
    "slurp_scenario": {"": 13_078},
}
"""Utterances of the test sets, by task and condition ("": all others) or fold.

ER: turns of IEMOCAP's sessions in the four classes, 5 531 in all. PR: LibriSpeech's test-clean. SLURP:
recordings of its test split (Bastianelli et al. 2020).
"""

_PAPER_COLUMNS = {"2-dist": "2dist", "test-other": "other"}


def condition_order(condition: str) -> tuple[int, str, float, str]:
    """By which conditions are sorted: the paper's, then others by name, those of a name from the highest SNR.

    Example: fsd, dns, fsd@20, fsd@5, fsd@-5, reverb.
    """
    place = CONDITIONS.index(condition) if condition in CONDITIONS else len(CONDITIONS)
    name, at, snr_db = condition.partition("@")
    try:
        return place, name, -float(snr_db) if at else -math.inf, condition
    except ValueError:  # of another version
        return place, name, math.inf, condition


def size_of_test(task: str, condition: str, fold: int | None) -> int | None:
    """Number of utterances of the published test set; None: not known."""
    known = TEST_UTTERANCES.get(task, {})
    return known.get(f"fold {fold}", known.get(condition, known.get("")))


def paper_row(name: str) -> str:
    """The name of a row of the paper's tables: "S4'" for S4', s4' or s4_prime.

    Raises:
        UsageError: for an unknown row.
    """
    rows = list(paper_numbers("ks"))
    if (found := name.upper().replace("_PRIME", "'")) not in rows:
        raise UsageError(f"row {name!r}: the paper's tables have {', '.join(rows)}")
    return found


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
