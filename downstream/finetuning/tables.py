"""Tables 3 to 9 of the paper (Huang et al. 2022, SPIRAL) with our word error rates next to the paper's.

A run stands in every row that it is: size, speech, units, language model, noise in training, ablation.
Results that no row of the paper has are in a table of their own, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distill.downstream.finetuning.paper import TABLES, PaperTable, RunKey, rows_of
from distill.downstream.finetuning.placing import key_of
from distill.downstream.finetuning.table_formats import FORMATS
from distill.downstream.finetuning.table_types import GridRow, GridTable
from distill.downstream.finetuning.wer_speech import SIZES
from distill.downstream.results import FINETUNED, Result, read_results
from distill.downstream.table_cells import make_cell
from distill.downstream.table_notes import Notes
from distill.downstream.table_rows import group_lines
from distill.downstream.table_types import Cell
from distill.errors import UserError

_FINETUNE_STEPS = {"train-clean-100": 80_000, "train-960": 320_000}
_PRETRAIN_STEPS = {"BASE": 200_000, "LARGE": 500_000}
_COLUMNS = {name for table in TABLES for names in table.columns.values() for name in names}
"""Test sets that the paper has."""


@dataclass(frozen=True)
class _Run:
    """A result and what it is."""

    result: Result
    key: RunKey | str


def make_spiral_tables(folders: Sequence[Path], format: str = "markdown", *, measured: bool = False) -> str:
    """The paper's tables with our numbers in them, as text.

    Args:
        folders: run folders of fine-tuning.
        format: "markdown", "csv" (one file) or "latex" (booktabs).
        measured: leave out tables and rows without scores of ours.

    Raises:
        UserError: for a missing folder, or if none of them has a word error rate of a fine-tuned model.
        ValueError: for another format.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    results = [result for result in read_results(folders) if result.task == FINETUNED]
    if folders and not results:
        listed = ", ".join(map(str, folders))
        raise UserError(f"no word error rates in {listed}: make some with `distill finetune`")
    tables = build_spiral_tables(results)
    return FORMATS[format]([table.only_measured() for table in tables] if measured else tables)


def build_spiral_tables(results: Iterable[Result]) -> list[GridTable]:
    """The paper's tables in its order; then what is in none of them."""
    runs = [_Run(result, key_of(result)) for result in results]
    placed: set[int] = set()
    tables = [_build(table, runs, placed) for table in TABLES]
    rest = [run for run in runs if id(run.result) not in placed]
    return [*tables, _others(rest)] if rest else tables


def _build(table: PaperTable, runs: Sequence[_Run], placed: set[int]) -> GridTable:
    """One table: each row of the paper, once for every line of ours."""
    notes = Notes()
    rows = []
    for paper in rows_of(table):
        key = table.key(paper)
        fitting = [run for run in runs if key is not None and run.key == key]
        by_column = {
            column: [run.result for run in fitting if _is_of(run.result, names)]
            for column, names in table.columns.items()
        }
        chosen = [result for found in by_column.values() for result in found]
        placed.update(map(id, chosen))
        about = tuple(paper[column] for column in table.about)
        lines = group_lines(chosen, notes)
        for line, members in lines.items():
            own = set(map(id, members))
            label = line.label()
            cells = tuple(
                _cell([r for r in by_column[column] if id(r) in own], paper[column], label, column, notes)
                for column in table.columns
            )
            assert key is not None
            _note_steps(members, key, label, notes)
            rows.append(GridRow(label, about, cells))
        if not lines:
            empty = tuple(Cell(None, 0.0, 0, paper[column]) for column in table.columns)
            rows.append(GridRow("", about, empty))
    title = f"Table {table.number}, {table.title}: word error rate in %"
    return GridTable(title, table.about, tuple(table.columns), tuple(rows), tuple(notes.lines()))


def _is_of(result: Result, names: Sequence[str]) -> bool:
    """Whether a result is of the test set of a column, without noise, or with that of its name."""
    wanted = "ns" if result.condition.startswith("ns-") else "clean"
    return result.condition in names and result.settings.get("test") == wanted


def _others(runs: Sequence[_Run]) -> GridTable:
    """What no row of the paper has, by line, with the reasons."""
    notes = Notes()
    columns = tuple(dict.fromkeys(run.result.condition for run in runs))
    keys: dict[tuple[RunKey | str, bool, str], list[Result]] = defaultdict(list)
    for run in runs:  # seeds of one recipe that differ in more than that are no seeds of one row
        keys[run.key, run.result.lm, _kind_of(run.result)].append(run.result)
    rows = []
    for (key, lm, _), members in keys.items():
        for line, found in group_lines(members, notes).items():
            label = line.label() + " with LM" * lm
            notes.add(key if isinstance(key, str) else f"no row of the paper with that column: {key}", label)
            for condition in sorted({result.condition for result in found} - _COLUMNS):
                notes.add("no test set of the paper", label, condition)
            by_condition = {c: [r for r in found if r.condition == c] for c in columns}
            cells = tuple(_cell(by_condition[c], "", label, c, notes) for c in columns)
            about = ", ".join(sorted({result.model for result in found}))
            rows.append(GridRow(label, (about,), cells))
    title = "Other runs: word error rate in %"
    return GridTable(title, ("model",), columns, tuple(rows), tuple(notes.lines()), published=False)


def _cell(results: Sequence[Result], paper: str, label: str, column: str, notes: Notes) -> Cell:
    """A cell, and notes about what is unusual in it."""
    for result in results:
        size = SIZES.get(result.condition)
        if size is not None and result.n_utterances != size:
            text = f"not the published test set: {result.n_utterances:,} utterances, not {size:,}"
            notes.add(text, label, column)
        if result.settings.get("noise heard in training"):
            notes.add("recordings of the test's noise may have been heard in training", label, column)
        if result.settings.get("test") == "ns" and "dns" in result.heard:
            notes.add("trained with dns noise, itself or a teacher of it: not new noise here", label, column)
        snr_db = result.settings.get("snr_db")
        if result.settings.get("test") == "ns" and snr_db != [0.0, 30.0]:
            notes.add(f"at {snr_db} dB, the paper's 0 to 30", label, column)
        if (test := result.settings.get("test")) not in ("clean", "ns"):
            notes.add(f"in noise: condition {test}", label, column)
    return make_cell(results, paper, label, column, notes)


def _note_steps(results: Sequence[Result], key: RunKey, label: str, notes: Notes) -> None:
    """Note trainings of other lengths than the paper's."""
    steps = {result.head_steps for result in results}
    if steps != {wanted := _FINETUNE_STEPS[key.finetuning]}:
        found = " and ".join(f"{n:,}" for n in sorted(steps))
        notes.add(f"fine-tuned for {found} steps, the paper's {wanted:,}", label)
    wanted = _PRETRAIN_STEPS[key.size]
    before = {_pretraining(result).get("steps") for result in results}
    if before != {wanted}:
        found = " and ".join(sorted(f"{n:,}" if isinstance(n, int) else "unknown" for n in before))
        notes.add(f"pre-trained for {found} steps, the paper's {wanted:,}", label)


def _kind_of(result: Result) -> str:
    """What must be equal in results that are averaged, whether the paper has such a run or not."""
    names = ("units", "vocabulary", "family", "encoder parameters", "frozen", "finetune_mct", "pretrain_mct")
    names += ("finetuning speech", "lm order", "lm units")
    before = {name: value for name, value in _pretraining(result).items() if name != "noises"}
    return repr([*(result.settings.get(name) for name in names), sorted(before.items(), key=str)])


def _pretraining(result: Result) -> Mapping[str, object]:
    found = result.settings.get("pretraining")
    return found if isinstance(found, Mapping) else {}
