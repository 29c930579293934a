"""Tables 1 and 2 of the paper, ours beside the paper's, from the JSON files that evaluations leave behind.

The paper is Huang et al., "Improving generalizability of distilled self-supervised speech processing models
under distorted settings". One table here is one task of it (ASR twice: without and with a language model), so
that each condition has room for both numbers. What the paper does not have follows in tables of its own.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.errors import UserError
from downstream.results import (
    ABOUT,
    CONDITIONS,
    METRICS,
    Result,
    paper_numbers,
    read_results,
)
from downstream.table_notes import (
    Notes,
    mixed,
    other_settings,
    other_speech,
    silent_clips,
    steps_of_heads,
)
from downstream.table_parts import Cell, Row, Table, only_measured
from downstream.table_text import to_csv, to_latex, to_markdown

PAPER_FEATURES = "last"
"""The paper's heads hear the last hidden state: only rows with these features get its numbers beside them."""

_PUBLISHED = (
    ("ks", "accuracy", False),
    ("ic", "accuracy", False),
    ("er", "accuracy", False),
    ("asr", "wer", False),
    ("asr", "wer", True),
)
_ER_FOLDS = 5  # IEMOCAP's sessions, each left out once


# -------------------------------------------------------------------------------- results -> rows and cells


@dataclass(frozen=True, order=True)
class _Line:
    """What a row of ours is about; results of different lines are never averaged."""

    name: str
    features: str
    student: str  # hash of the checkpoint where one seed has several, else empty

    def label(self) -> str:
        extra = [self.features] if self.features != PAPER_FEATURES else []
        extra += [f"student {self.student[:8]}"] if self.student else []
        return self.name + (f" ({', '.join(extra)})" if extra else "")


def row_name(result: Result) -> str:
    """The paper's name of a recipe ("s4_prime" -> "S4'"), another recipe's own, or the model's."""
    if result.recipe is None:
        return result.model
    label = result.recipe.upper().replace("_PRIME", "'")
    return label if label in _paper_rows() else result.recipe


@functools.cache
def _paper_rows() -> tuple[str, ...]:
    return tuple(paper_numbers("ks"))


def group_lines(results: Iterable[Result], notes: Notes) -> dict[_Line, list[Result]]:
    """Results of one table by row.

    Seeds of one recipe are one row, even if each is a student of its own. Where one seed has several
    students, nothing says which belong together: each student gets a row.
    """
    by_recipe: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        by_recipe[row_name(result), result.features].append(result)
    lines: dict[_Line, list[Result]] = defaultdict(list)
    for (name, features), members in by_recipe.items():
        students: dict[int, set[str]] = defaultdict(set)
        for result in members:
            students[result.seed].add(result.checkpoint_hash)
        count = len(set().union(*students.values()))
        shared = [seed for seed, hashes in sorted(students.items()) if len(hashes) > 1]
        for result in members:
            line = _Line(name, features, result.checkpoint_hash if shared else "")
            lines[line].append(result)
        together = _Line(name, features, "").label()
        if shared:
            notes.add(
                f"{count} students have a row each, as several have results of seed {shared[0]}; for one row "
                "with their spread, evaluate each with its own --seed and --out and name only these folders",
                together,
            )
        elif count > 1:
            notes.add(f"every seed is another student ({count} in all)", together)
    return dict(lines)


def make_cell(results: Iterable[Result], paper: str, label: str, condition: str, notes: Notes) -> Cell:
    """The cell of what was measured in one row under one condition.

    Args:
        results: in any order.
        paper: the paper's number.
        label: of the row.
        condition: which one.
        notes: oddities are added here.
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
    means = []
    for seed, members in sorted(seeds.items()):
        folds = [result for result in members if result.fold is not None]
        if folds and len(folds) != _ER_FOLDS:
            listed = ", ".join(str(fold) for fold in sorted(result.fold or 0 for result in folds))
            notes.add(f"seed {seed} has fold {listed} of {_ER_FOLDS} only", label, condition)
        counted = folds or members  # without folds: a single value, or somebody's own mean over them
        means.append(sum(result.value for result in counted) / len(counted))
    for text in [*mixed(list(latest.values())), *silent_clips(list(latest.values()))]:
        notes.add(text, label, condition)
    if not means:
        return Cell(None, 0.0, 0, paper)
    return Cell(sum(means) / len(means), max(means) - min(means), len(means), paper)


def build_tables(results: Iterable[Result]) -> list[Table]:
    """The paper's tables with our numbers in them, then those of what the paper does not have."""
    found: dict[tuple[str, str, bool], list[Result]] = defaultdict(list)
    for result in results:
        found[result.task, result.metric, result.lm].append(result)
    keys = (*_PUBLISHED, *sorted(found.keys() - set(_PUBLISHED)))
    return [_build(*key, found.get(key, [])) for key in keys]


def _build(task: str, metric: str, lm: bool, results: Sequence[Result]) -> Table:
    """One table: the paper's rows in its order, measured or not, then others by name."""
    published = (task, metric, lm) in _PUBLISHED
    paper = paper_numbers(task, lm=lm) if published else {}
    notes = Notes()
    kept = group_lines(results, notes)
    used = {result.condition for result in results}.union(*paper.values()) - {"model", *ABOUT}
    columns = [c for c in CONDITIONS if c in used] + sorted(used.difference(CONDITIONS))
    for line, members in kept.items():
        for text in [*other_speech(members), *other_settings(members)]:
            notes.add(text, line.label())
    measured = {line.name for line in kept if line.features == PAPER_FEATURES}
    empty = [_Line(name, PAPER_FEATURES, "") for name in paper if name not in measured]
    place = {name: number for number, name in enumerate(paper)}
    order = sorted(
        [*kept, *empty], key=lambda x: (place.get(x.name, len(place)), x.features != PAPER_FEATURES, x)
    )
    rows = tuple(_row(line, kept.get(line, []), paper.get(line.name, {}), columns, notes) for line in order)
    number = f"Table {2 if task == 'asr' else 1}, " if published else ""
    name = task if "_" in task else task.upper()
    title = f"{number}{name}{' with language model' if lm else ''}: {METRICS[metric]}"
    steps = [steps_of_heads(task, results, published=published)] if results else []
    return Table(title, task, metric, lm, published, tuple(columns), rows, (*steps, *notes.lines()))


def _row(
    line: _Line, results: Sequence[Result], paper: Mapping[str, str], columns: Sequence[str], notes: Notes
) -> Row:
    """One row; `paper` is the paper's row of that name, if it has one."""
    cells = []
    for condition in columns:
        chosen = [result for result in results if result.condition == condition]
        number = paper.get(condition, "") if line.features == PAPER_FEATURES else ""
        cells.append(make_cell(chosen, number, line.label(), condition, notes))
    adapted, parameters = (paper.get(key, "") for key in ABOUT)
    return Row(line.label(), paper.get("model") or results[0].model, adapted, parameters, tuple(cells))


# ------------------------------------------------------------------------------------------------- writing


def make_tables(folders: Sequence[Path], format: str = "markdown", *, measured: bool = False) -> str:
    """Tables 1 and 2, ours beside the paper's, as text.

    Args:
        folders: run folders, outputs of evaluations or of a sweep; without any, the paper's numbers alone.
        format: "markdown", "csv" (one file, a line for each row of each table) or "latex" (booktabs).
        measured: leave out tables and rows in which nothing is ours.

    Raises:
        UserError: for a folder that is missing, or if none of them has a result.
        ValueError: for another format.
    """
    writers = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}
    if format not in writers:
        raise ValueError(f"format must be one of {', '.join(writers)}, not {format!r}")
    results = read_results(folders)
    if folders and not results:
        listed = ", ".join(map(str, folders))
        raise UserError(f"no results in {listed}: make some with `distill evaluate` or `distill sweep`")
    tables = build_tables(results)
    return writers[format](only_measured(tables) if measured else tables)
