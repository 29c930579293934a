"""Rows compared to one of them: differences of scores on the same utterances, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from distill.downstream.bootstrap import seeded_difference
from distill.downstream.results import Result
from distill.downstream.table_cells import choose_seeds, is_upward, outcomes_of
from distill.downstream.table_notes import Notes
from distill.downstream.table_rows import Line, labelled
from distill.downstream.table_types import Cell, DifferenceCell
from distill.errors import DataError, UserError


def find_line(lines: Iterable[Line], name: str) -> Line | None:
    """The row of a name: as tables print it ("S4", "mini_s4", "S4 (weighted_sum)"), or its recipe's.

    Returns:
        None if there is no such row.

    Raises:
        UserError: if several rows have the name.
    """
    lines = list(lines)
    wanted = (name, labelled(name))
    for text in (Line.label, lambda line: line.name):
        found = [line for line in lines if text(line) in wanted]
        if len(found) > 1:
            labels = ", ".join(sorted(line.label() for line in found))
            raise UserError(f"--against {name}: several rows have this name: {labels}; give one of these")
        if found:
            return found[0]
    return None


def difference_cell(
    ours: Iterable[Result], theirs: Iterable[Result], label: str, base: str, condition: str, notes: Notes
) -> Cell:
    """The cell of one row and condition: its score minus that of another row.

    Args:
        ours: results of the row, in any order.
        theirs: those of the other one.
        label: of the row.
        base: label of the other one.
        condition: of the column.
        notes: what is unusual is added here; about the other row nothing is said.
    """
    by_seed = choose_seeds(ours, label, condition, notes)
    base_by_seed = choose_seeds(theirs, base, condition, Notes())
    if not by_seed:
        return Cell(None, 0.0, 0, "")
    if not base_by_seed:
        notes.add(f"no difference: {base} was not tested there", label, condition)
        return Cell(None, 0.0, 0, "")
    means, base_means = _means(by_seed), _means(base_by_seed)
    mean = sum(means.values()) / len(means) - sum(base_means.values()) / len(base_means)
    n_seeds = min(len(means), len(base_means))
    spread = math.nan
    if means.keys() == base_means.keys():
        differences = [means[seed] - base_means[seed] for seed in means]
        spread = max(differences) - min(differences)
    else:
        seeds, base_seeds = (", ".join(map(str, found)) for found in (means, base_means))
        notes.add(f"seeds {seeds}, {base} has {base_seeds}: not paired by seed", label, condition)
    if n_seeds == 1:
        notes.add("a single seed: the interval covers the choice of utterances alone", label, condition)
    try:
        bounds = _interval(by_seed, base_by_seed)
    except DataError as error:
        bounds = None
        notes.add(f"no confidence interval: {error}", label, condition)
    return DifferenceCell(mean, spread, n_seeds, "", bounds)


def _means(by_seed: Mapping[int, Sequence[Result]]) -> dict[int, float]:
    """By seed, the mean over folds."""
    return {
        seed: sum(result.value for result in folds) / len(folds) for seed, folds in sorted(by_seed.items())
    }


def _interval(
    ours: Mapping[int, Sequence[Result]], theirs: Mapping[int, Sequence[Result]]
) -> tuple[float, float]:
    """Bounds of the difference of scores, in percentage points.

    Raises:
        DataError: if outcomes were not kept, cannot be read, or are of different utterances.
    """
    found = seeded_difference(
        {seed: outcomes_of(folds) for seed, folds in ours.items()},
        {seed: outcomes_of(folds) for seed, folds in theirs.items()},
    )
    upward = is_upward(next(iter(ours.values()))[0])
    return (-found.high, -found.low) if upward else (found.low, found.high)
