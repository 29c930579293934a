"""Rows compared to one of them: differences of scores on the same utterances, paired by seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from distill.downstream.bootstrap import Outcomes, interval, seeded_difference
from distill.downstream.paper import condition_order
from distill.downstream.results import Result
from distill.downstream.table_cells import choose_seeds, is_upward, make_cell, outcomes_of
from distill.downstream.table_notes import Notes
from distill.downstream.table_rows import Line, labelled
from distill.downstream.table_types import Cell, DifferenceCell, Row
from distill.errors import DataError, UserError

_MEAN = "@mean"
_SINGLE = "a single seed: the interval covers the choice of utterances alone"


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


def with_means(conditions: Sequence[str]) -> list[str]:
    """The columns, and after several SNRs of a kind of noise (fsd@5, fsd@0) their mean (fsd@mean)."""
    rungs = Counter(condition.partition("@")[0] for condition in conditions if "@" in condition)
    means = [name + _MEAN for name, count in rungs.items() if count > 1]
    return sorted([*conditions, *means], key=condition_order)


def conditions_of(column: str, columns: Iterable[str]) -> list[str]:
    """The conditions that a column is of: itself, or those that it is the mean of."""
    if not column.endswith(_MEAN):
        return [column]
    name = column.removesuffix(_MEAN)
    return [other for other in columns if other != column and other.partition("@")[0] == name != other]


def compared_rows(
    lines: Sequence[Line], kept: Mapping[Line, Sequence[Result]], columns: Sequence[str], notes: Notes
) -> tuple[Row, ...]:
    """The first row's scores, and the differences of the others to it.

    Args:
        lines: identities of the rows.
        kept: their results.
        columns: of the table, with means (`with_means`).
        notes: what is unusual is added here.
    """
    base, *others = lines
    rows = [Row(base.label(), kept[base][0].model, "", "", _base_cells(base, kept[base], columns, notes))]
    for line in others:
        cells = tuple(_difference_cell(line, base, kept, column, columns, notes) for column in columns)
        rows.append(Row(line.label(), kept[line][0].model, "", "", cells))
    return tuple(rows)


def _base_cells(
    line: Line, results: Sequence[Result], columns: Sequence[str], notes: Notes
) -> tuple[Cell, ...]:
    """The scores of a row."""
    cells = []
    for column in columns:
        conditions = conditions_of(column, columns)
        if conditions == [column]:
            chosen = [result for result in results if result.condition == column]
            cells.append(make_cell(chosen, "", line.label(), column, notes))
            continue
        by_seed = _by_seed(results, conditions, line.label(), Notes())
        means = list(_means(by_seed).values())
        try:
            bounds = interval([_outcomes(several) for several in by_seed.values()]) if by_seed else None
        except DataError:  # noted at the conditions themselves
            bounds = None
        if bounds is not None and is_upward(results[0]):
            bounds = (100.0 - bounds[1], 100.0 - bounds[0])
        mean = sum(means) / len(means) if means else None
        spread = max(means) - min(means) if means else 0.0
        cells.append(Cell(mean, spread, len(means), "", bounds))
    return tuple(cells)


def _difference_cell(
    line: Line,
    base: Line,
    kept: Mapping[Line, Sequence[Result]],
    column: str,
    columns: Sequence[str],
    notes: Notes,
) -> Cell:
    """The score of one row in one column minus that of another row; about that one nothing is noted."""
    conditions, label = conditions_of(column, columns), line.label()
    by_seed = _by_seed(kept[line], conditions, label, notes if conditions == [column] else Notes())
    base_by_seed = _by_seed(kept[base], conditions, base.label(), Notes())
    if not by_seed:
        return Cell(None, 0.0, 0, "")
    if not base_by_seed:
        notes.add(f"no difference: {base.label()} was not tested there", label, column)
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
        notes.add(f"seeds {seeds}, {base.label()} has {base_seeds}: not paired by seed", label, column)
    if n_seeds == 1:
        notes.add(_SINGLE, label, column)
    try:
        bounds = _interval(by_seed, base_by_seed, upward=is_upward(kept[line][0]))
    except DataError as error:
        bounds = None
        notes.add(f"no confidence interval: {error}", label, column)
    return DifferenceCell(mean, spread, n_seeds, "", bounds)


def _by_seed(
    results: Sequence[Result], conditions: Sequence[str], label: str, notes: Notes
) -> dict[int, list[list[Result]]]:
    """By seed, for each condition the results of its folds; seeds that lack a condition are left out."""
    chosen = [
        choose_seeds([r for r in results if r.condition == condition], label, condition, notes)
        for condition in conditions
    ]
    common = set.intersection(*map(set, chosen))
    return {seed: [each[seed] for each in chosen] for seed in sorted(common)}


def _means(by_seed: Mapping[int, Sequence[Sequence[Result]]]) -> dict[int, float]:
    """By seed, the mean over conditions of the mean over folds."""
    return {
        seed: sum(sum(r.value for r in folds) / len(folds) for folds in several) / len(several)
        for seed, several in by_seed.items()
    }


def _outcomes(several: Sequence[Sequence[Result]]) -> list[Outcomes]:
    """The outcomes of each fold, of several conditions those of an utterance added up.

    Raises:
        DataError: if they were not kept, cannot be read, or are of different utterances.
    """
    found = [outcomes_of(folds) for folds in several]
    merged: list[Outcomes] = []
    for conditions in zip(*found, strict=True):
        counts = [{name: count for name, (_, count) in outcomes.items()} for outcomes in conditions]
        if any(other != counts[0] for other in counts):
            raise DataError("conditions were tested on different utterances")
        merged.append(
            {n: (sum(one[n][0] for one in conditions), c * len(found)) for n, c in counts[0].items()}
        )
    return merged


def _interval(
    ours: Mapping[int, Sequence[Sequence[Result]]],
    theirs: Mapping[int, Sequence[Sequence[Result]]],
    *,
    upward: bool,
) -> tuple[float, float]:
    """Bounds of the difference of scores, in percentage points.

    Raises:
        DataError: as `_outcomes`, or if the two are of different utterances.
    """
    ours_by_seed, theirs_by_seed = (
        {seed: _outcomes(several) for seed, several in each.items()} for each in (ours, theirs)
    )
    found = seeded_difference(ours_by_seed, theirs_by_seed)
    return (-found.high, -found.low) if upward else (found.low, found.high)
