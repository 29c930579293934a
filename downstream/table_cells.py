"""A cell of a table: mean, spread and confidence interval of results of seeds and folds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.downstream.bootstrap import error_rate, interval, read_outcomes
from distill.downstream.results import Result
from distill.downstream.table_notes import Notes, mixed, silent_clips
from distill.downstream.table_types import Cell
from distill.errors import DataError

_ER_FOLDS = 5  # IEMOCAP's sessions, each left out once
_TOLERANCE = 0.005
"""Per cent by which a score may differ from that of its utterances: both are printed with two digits."""


def make_cell(results: Iterable[Result], paper: str, label: str, condition: str, notes: Notes) -> Cell:
    """The cell of one row and condition.

    Args:
        results: in any order.
        paper: the paper's number.
        label: of the row.
        condition: of the column.
        notes: what is unusual is added here.
    """
    counted = choose_seeds(results, label, condition, notes)
    if not counted:
        return Cell(None, 0.0, 0, paper)
    means = [sum(result.value for result in members) / len(members) for members in counted.values()]
    try:
        bounds = score_interval(list(counted.values()))
    except DataError as error:
        bounds = None
        notes.add(f"no confidence interval: {error}", label, condition)
    return Cell(sum(means) / len(means), max(means) - min(means), len(means), paper, bounds)


def choose_seeds(
    results: Iterable[Result], label: str, condition: str, notes: Notes
) -> dict[int, list[Result]]:
    """The results that count, by seed: of several of a fold the latest; folds in order.

    Args:
        results: of one row and condition, in any order.
        label: of the row.
        condition: of the column.
        notes: what is unusual is added here.
    """
    latest: dict[tuple[int, int | None], Result] = {}
    for result in sorted(results, key=lambda result: result.finished):
        key = (result.seed, result.fold)
        if key in latest and latest[key].value != result.value:
            text = f"seed {result.seed} was measured more than once, the latest counts"
            notes.add(text, label, condition)
        latest[key] = result
    seeds: dict[int, list[Result]] = defaultdict(list)
    for result in latest.values():
        seeds[result.seed].append(result)
    counted: dict[int, list[Result]] = {}
    for seed, members in sorted(seeds.items()):
        folds = [result for result in members if result.fold is not None]
        if folds and len(folds) != _ER_FOLDS:
            listed = ", ".join(str(fold) for fold in sorted(result.fold or 0 for result in folds))
            notes.add(f"seed {seed} has fold {listed} of {_ER_FOLDS} only", label, condition)
        # Without folds: a single value, or a mean over them that was made elsewhere.
        counted[seed] = sorted(folds or members, key=lambda result: result.fold or 0)
    for text in [*mixed(list(latest.values())), *silent_clips(list(latest.values()))]:
        notes.add(text, label, condition)
    return counted


def score_interval(seeds: Sequence[Sequence[Result]]) -> tuple[float, float] | None:
    """The confidence interval of a mean over seeds, each the mean of its folds.

    Returns:
        Bounds in per cent; None where the outcomes of utterances were not kept.

    Raises:
        DataError: if they do not match the scores, or cannot be read.
    """
    if any(result.predictions is None for folds in seeds for result in folds):
        return None
    low, high = interval([outcomes_of(folds) for folds in seeds])
    return (100.0 - high, 100.0 - low) if is_upward(seeds[0][0]) else (low, high)


def outcomes_of(folds: Sequence[Result]) -> list[dict[str, tuple[float, float]]]:
    """The outcomes of the utterances of each fold.

    Raises:
        DataError: if they were not kept, cannot be read, or do not match the scores.
    """
    outcomes = []
    for result in folds:
        if result.predictions is None:
            raise DataError("the outcomes of utterances were not kept")
        outcomes.append(read_outcomes(Path(result.predictions)))
        error = error_rate(outcomes[-1])
        if abs((100.0 - error if is_upward(result) else error) - result.value) > _TOLERANCE:
            name = Path(result.predictions).name
            raise DataError(f"the outcomes in {name} do not give the score {result.value:.2f}")
    return outcomes


def is_upward(result: Result) -> bool:
    """Whether a higher score is better."""
    return result.metric in ("accuracy", "f1")
