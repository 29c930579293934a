"""Tables 1 and 2 of the paper with our scores next to the paper's, from the results of evaluations.

The paper is Huang et al., "Improving generalizability of distilled self-supervised speech processing models
under distorted settings". A table here is one task of it (ASR twice: without and with a language model), so
that each condition has room for both numbers. Other tasks follow in tables of their own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from distill.downstream.paper import ABOUT, condition_order, paper_numbers
from distill.downstream.results import FINETUNED, METRICS, Result, read_results
from distill.downstream.table_cells import make_cell
from distill.downstream.table_choices import choose, choose_lr, compared_features, note_features
from distill.downstream.table_differences import compared_rows, find_line, with_means
from distill.downstream.table_formats import to_csv, to_latex, to_markdown
from distill.downstream.table_notes import (
    Notes,
    about_heads,
    heard_noises,
    note_other_tests,
    note_several_rows,
    other_recipe,
    other_settings,
    other_speech,
    put_by_name,
)
from distill.downstream.table_rows import Line, group_lines
from distill.downstream.table_types import Row, Table, only_measured
from distill.errors import UserError

logger = logging.getLogger(__name__)

_PUBLISHED = (
    ("ks", "accuracy", False),
    ("ic", "accuracy", False),
    ("er", "accuracy", False),
    ("asr", "wer", False),
    ("asr", "wer", True),
)
_NO_INTERVAL = "No confidence interval where the outcomes of utterances were not kept: {} of {} cells"


def build_tables(
    results: Iterable[Result],
    *,
    protocol: str | None = None,
    variant: str | None = None,
    against: str | None = None,
) -> list[Table]:
    """The paper's tables with our numbers in them, then tables of other tasks.

    Args:
        results: of any tasks, students and settings; those of fine-tuned models are left out.
        protocol: use only results of this one; None: each table must have only one.
        variant: the same of the distortions.
        against: a row of ours; the tables are then without the paper, and have the differences of all other
            rows to this one. Tasks for which it has no results are left out.

    Raises:
        UserError: where there is no row `against`, or several; where a table would have results of several
            protocols, variants, or learning rates of which none can be chosen.
    """
    found: dict[tuple[str, str, bool], list[Result]] = defaultdict(list)
    of_heads = [result for result in results if result.task != FINETUNED]
    for result in choose(of_heads, protocol=protocol, variant=variant):
        found[result.task, result.metric, result.lm].append(result)
    keys = (*_PUBLISHED, *sorted(found.keys() - set(_PUBLISHED)))
    if against is None:
        return [_build(*key, found.get(key, [])) for key in keys]
    return _build_differences({key: found[key] for key in keys if key in found}, against)


def _build_differences(found: Mapping[tuple[str, str, bool], list[Result]], against: str) -> list[Table]:
    """The tables of differences."""
    tables: list[Table] = []
    lacking: list[str] = []
    names: dict[str, None] = {}
    for (task, metric, lm), results in found.items():
        lines = group_lines(results, Notes())
        names |= dict.fromkeys(line.label() for line in lines)
        if find_line(lines, against) is not None:
            tables.append(_build(task, metric, lm, results, against))
        else:
            lacking.append(task_title(task, metric, lm))
    if not tables:
        raise UserError(f"--against {against}: there is no such row; there are {', '.join(names) or 'none'}")
    for title in lacking:
        logger.warning("%s: no results of %s: left out", title, against)
    return tables


def task_title(task: str, metric: str, lm: bool) -> str:
    """What a table is of."""
    name = task if "_" in task else task.upper()
    return f"{name}{' with language model' if lm else ''}: {METRICS[metric]}"


def _build(task: str, metric: str, lm: bool, results: Sequence[Result], against: str | None = None) -> Table:
    """One table: the paper's rows in its order, measured or not, then others by name.

    Of differences: first the row that the others are compared to.
    """
    published = (task, metric, lm) in _PUBLISHED and against is None
    paper = paper_numbers(task, lm=lm) if published else {}
    notes = Notes()
    kept = group_lines(results, notes)
    kept = {line: choose_lr(members, line.label(), notes) for line, members in kept.items()}
    used = {result.condition for result in results}.union(*paper.values()) - {"model", *ABOUT}
    columns = sorted(used, key=condition_order)
    for line, members in kept.items():
        for about in (put_by_name, other_recipe, other_speech, other_settings):
            for text in about(members):
                notes.add(text, line.label())
        for condition, text in heard_noises(members).items():
            notes.add(text, line.label(), condition)
    order = _in_order(kept, paper, notes)
    base = find_line(kept, against) if against is not None else None
    order.sort(key=lambda one: one[0] != base)
    measured = {line.label(): kept[line] for line, _ in order if line in kept}
    note_other_tests(measured, notes)
    note_several_rows(measured, {line.label(): line.name for line in kept}, notes)
    if base is None:
        rows = tuple(_row(line, kept.get(line, []), numbers, columns, notes) for line, numbers in order)
    else:
        columns = with_means(columns)
        rows = compared_rows([line for line, _ in order], kept, columns, notes)
    title = f"Table {2 if task == 'asr' else 1}, " if published else ""
    title += task_title(task, metric, lm) + (f"; differences to {base.label()}" if base else "")
    first = [about_heads(task, results, published=published)] if results else []
    cells = [cell for row in rows for cell in row.cells if cell.mean is not None]
    without = sum(cell.interval is None for cell in cells)
    last = [_NO_INTERVAL.format(without, len(cells))] if without else []
    said = (*first, *notes.lines(), *last)
    label = base.label() if base else ""
    return Table(title, task, metric, lm, published, tuple(columns), rows, said, label)


def _in_order(
    kept: Iterable[Line], paper: Mapping[str, Mapping[str, str]], notes: Notes
) -> list[tuple[Line, Mapping[str, str]]]:
    """The paper's rows, those of ours with other features below each, then others by name.

    Returns:
        Each with the paper's columns; without its numbers where the features are others.
    """
    available: dict[str, set[str]] = defaultdict(set)
    for line in kept:
        available[line.name].add(line.features)
    compared = {name: compared_features(name, available[name]) for name in {*paper, *available}}
    empty = [Line(name, compared[name], "") for name in paper if compared[name] not in available[name]]
    position = {name: number for number, name in enumerate(paper)}
    order = sorted(
        [*kept, *empty],
        key=lambda x: (position.get(x.name, len(position)), x.features != compared[x.name], x),
    )
    for line in order:
        if line.name in paper and line.features in available[line.name]:
            note_features(line.name, line.label(), line.features, available[line.name], notes)
    about = {name: {key: row[key] for key in ("model", *ABOUT)} for name, row in paper.items()}
    return [(x, (paper if x.features == compared[x.name] else about).get(x.name, {})) for x in order]


def _row(
    line: Line, results: Sequence[Result], paper: Mapping[str, str], columns: Sequence[str], notes: Notes
) -> Row:
    """One row; `paper` has the paper's columns."""
    cells = []
    for condition in columns:
        chosen = [result for result in results if result.condition == condition]
        cells.append(make_cell(chosen, paper.get(condition, ""), line.label(), condition, notes))
    adapted, parameters = (paper.get(key, "") for key in ABOUT)
    return Row(line.label(), paper.get("model") or results[0].model, adapted, parameters, tuple(cells))


def make_tables(
    folders: Sequence[Path],
    format: str = "markdown",
    *,
    measured: bool = False,
    protocol: str | None = None,
    variant: str | None = None,
    against: str | None = None,
) -> str:
    """Tables 1 and 2, ours next to the paper's, as text.

    Args:
        folders: run folders, outputs of evaluations or of a sweep; without any, the paper's numbers alone.
        format: "markdown", "csv" (one file, a line for each row of each table) or "latex" (booktabs).
        measured: leave out tables and rows without scores of ours.
        protocol: use only results of this one.
        variant: use only results of this variant of the distortions.
        against: a row of ours; in place of scores the differences of the other rows to it (`build_tables`).

    Raises:
        UserError: for a missing folder or row, if no folder has a result, or if a protocol, variant or
            learning rate must be chosen (`build_tables`).
        ValueError: for another format.
    """
    writers = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}
    if format not in writers:
        raise ValueError(f"format must be one of {', '.join(writers)}, not {format!r}")
    results = read_results(folders)
    if folders and not results:
        listed = ", ".join(map(str, folders))
        raise UserError(f"no results in {listed}: make some with `distill evaluate` or `distill sweep`")
    if results and all(result.task == FINETUNED for result in results):
        listed = ", ".join(map(str, folders))
        raise UserError(f"{listed}: all results are of fine-tuned models: their tables are --paper spiral")
    tables = build_tables(results, protocol=protocol, variant=variant, against=against)
    return writers[format](only_measured(tables) if measured else tables)
