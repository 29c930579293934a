"""Results as evaluations write them, and tables of such."""

import json
from pathlib import Path

from distill.downstream.results import parse_result
from distill.downstream.tables import build_tables


def values(**changes) -> dict:
    """What an evaluation writes."""
    return {
        "task": "ks",
        "condition": "clean",
        "metric": "accuracy",
        "value": 90.0,
        "seed": 0,
        "fold": None,
        "lm": False,
        "features": "last",
        "model": "runs/s4",
        "checkpoint_hash": "a" * 32,
        "recipe": "s4",
        "head_steps": 200_000,
        "n_utterances": 3081,
        "versions": {"torch": "2.11.0"},
        "finished": "2026-01-01T00:00:00",
    } | changes


def tables(*changes: dict) -> dict:
    """Tables of such results, by (task, metric, lm)."""
    built = build_tables(parse_result(values(**change)) for change in changes)
    return {(table.task, table.metric, table.lm): table for table in built}


def cell(table, label: str, condition: str):
    row = {row.label: row for row in table.rows}[label]
    return row.cells[table.conditions.index(condition)]


def write(folder: Path, *changes: dict) -> Path:
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for index, change in enumerate(changes):
        (folder / "results" / f"{index}.json").write_text(json.dumps(values(**change)))
    return folder


KS = ("ks", "accuracy", False)
SESSIONS = (1_085, 1_023, 1_151, 1_031, 1_241)  # IEMOCAP's


def said(table) -> tuple[str, ...]:
    """The notes of a table without what all tables of these results say."""
    first, *others = table.notes
    assert first.endswith("; protocol paper") or "; protocol paper; distortions: variant paper" in first
    assert others[-1].startswith("No confidence interval where the outcomes of utterances were not kept: ")
    return (first.partition(";")[0], *others[:-1])
