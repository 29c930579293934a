"""Tables 1 and 2 of the paper, ours beside the paper's, from the JSON files that evaluations leave behind.

The paper is Huang et al., "Improving generalizability of distilled self-supervised speech processing models
under distorted settings". One table here is one task of it (ASR twice: without and with a language model), so
that each condition has room for both numbers. What the paper does not have follows in tables of its own.
"""

from __future__ import annotations

import csv
import functools
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.errors import UserError
from downstream.results import (
    ABOUT,
    CONDITIONS,
    METRICS,
    Result,
    paper_numbers,
    read_results,
)
from downstream.table_notes import Notes, mixed, other_settings, other_speech, steps_of_heads

PAPER_FEATURES = "last"
"""The paper's heads hear the last hidden state: only rows with these features get its numbers beside them."""

CAPTION = (
    "Ours: mean over seeds, in brackets largest minus smallest and the number of seeds; empty: not measured. "
    "Paper, and its da. (domain-adapted teacher) and para. (parameters): "
    "Huang et al., Improving generalizability of distilled self-supervised speech processing models "
    "under distorted settings, Tables 1 and 2."
)
_PUBLISHED = (
    ("ks", "accuracy", False),
    ("ic", "accuracy", False),
    ("er", "accuracy", False),
    ("asr", "wer", False),
    ("asr", "wer", True),
)
_ER_FOLDS = 5  # IEMOCAP's sessions, each left out once


@dataclass(frozen=True)
class Cell:
    """What was measured in one row under one condition, and what the paper says."""

    mean: float | None
    """In per cent over seeds, each the mean of its folds; None: not measured."""
    spread: float
    """Largest minus smallest seed, in per cent."""
    n_seeds: int
    """How many."""
    paper: str
    """The paper's number as printed; empty where it has none."""

    def ours(self) -> str:
        """As text: "93.21", with several seeds "93.21 (0.40, n=3)", empty where nothing was measured."""
        if self.mean is None:
            return ""
        return f"{self.mean:.2f}" + (f" ({self.spread:.2f}, n={self.n_seeds})" if self.n_seeds > 1 else "")


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    label: str
    """The paper's name (S4'), else the recipe's or model's; with features and student if needed."""
    model: str
    """As the paper describes it, else the checkpoint's name."""
    adapted: str
    """Whether the teacher was domain-adapted: yes, no, or empty where unknown."""
    parameters: str
    """As in the paper; empty where unknown."""
    cells: tuple[Cell, ...]
    """One for each condition of the table."""


@dataclass(frozen=True)
class Table:
    """One task."""

    title: str
    """Place in the paper, task and metric."""
    task: str
    """ks, ic, ..."""
    metric: str
    """A key of `METRICS`."""
    lm: bool
    """With a language model."""
    published: bool
    """Whether the paper has this table."""
    conditions: tuple[str, ...]
    """Columns."""
    rows: tuple[Row, ...]
    """Lines."""
    notes: tuple[str, ...]
    """What to know before comparing."""


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
    for text in mixed(list(latest.values())):
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


def is_measured(row: Row) -> bool:
    """Whether anything in a row is ours."""
    return any(cell.mean is not None for cell in row.cells)


def only_measured(tables: Iterable[Table]) -> list[Table]:
    """The tables and rows in which something is ours."""
    kept = [replace(table, rows=tuple(filter(is_measured, table.rows))) for table in tables]
    return [table for table in kept if table.rows]


def _pairs(row: Row) -> list[str]:
    """The columns after a row's label: ours and the paper's by turns."""
    return [text for cell in row.cells for text in (cell.ours(), cell.paper)]


def to_markdown(tables: Sequence[Table]) -> str:
    """Each table below its title, then the caption and notes."""
    parts = []
    for table in tables:
        columns = ["", "model", "da.", "para."]
        for condition in table.conditions:
            columns += [condition, "paper"] if table.published else [condition]
        lines = [columns, ["---"] * 4 + ["---:"] * (len(columns) - 4)]
        for row in table.rows:
            numbers = _pairs(row) if table.published else [cell.ours() for cell in row.cells]
            about = [text.replace("|", "\\|") for text in (row.label, row.model)]
            lines.append([*about, row.adapted, row.parameters, *numbers])
        text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        notes = "\n".join(f"- {note}." for note in table.notes)
        parts.append("\n\n".join(part for part in (f"### {table.title}", text, notes) if part))
    return "\n\n".join([*parts, CAPTION]) + "\n"


def to_csv(tables: Sequence[Table]) -> str:
    """All tables in one; for each condition ours, spread, number of seeds, and the paper's number."""
    conditions = list(dict.fromkeys([*CONDITIONS, *(c for table in tables for c in table.conditions)]))
    columns = ["task", "lm", "metric", "row", "model", *ABOUT]
    columns += [c + suffix for c in conditions for suffix in ("", " spread", " seeds", " paper")]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            about = (table.task, "yes" if table.lm else "no", table.metric, row.label, row.model)
            line: dict[str, Any] = dict(zip(columns, (*about, row.adapted, row.parameters), strict=False))
            for condition, cell in zip(table.conditions, row.cells, strict=True):
                line[f"{condition} paper"] = cell.paper
                if cell.mean is not None:
                    line |= {condition: f"{cell.mean:.4f}", f"{condition} spread": f"{cell.spread:.4f}"}
                    line[f"{condition} seeds"] = cell.n_seeds
            writer.writerow(line)
    return text.getvalue()


def to_latex(tables: Sequence[Table]) -> str:
    """A `table` for each, to be used with the package booktabs."""
    parts = []
    for table in tables:
        span = 2 if table.published else 1
        heads = [rf"\multicolumn{{{span}}}{{c}}{{{_tex(c)}}}" for c in table.conditions]
        kinds = [kind for _ in table.conditions for kind in ("ours", "paper")[:span]]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(table.title)}. {_tex(CAPTION)}}}",
            rf"\begin{{tabular}}{{llll{'r' * len(kinds)}}}",
            r"\toprule",
            " & ".join(["", "model", "da.", "para.", *heads]) + r" \\",
            " & ".join(["", "", "", "", *kinds]) + r" \\",
            r"\midrule",
        ]
        for row in table.rows:
            numbers = _pairs(row) if table.published else [cell.ours() for cell in row.cells]
            texts = [row.label, row.model, row.adapted, row.parameters, *numbers]
            lines.append(" & ".join(map(_tex, texts)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        parts.append("\n".join([*lines, *(f"% {note}." for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def _tex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    named = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(named.get(c, "\\" + c if c in "&%$#_{}" else c) for c in text)
