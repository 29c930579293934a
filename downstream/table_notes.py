"""Notes below a table: settings, test sets and steps that are not the paper's, or differ between rows.

A note is about rows, or conditions of rows; the same note about several is printed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill.config.method import changes_of
from distill.downstream.distorted_sets import find_condition
from distill.downstream.paper import PAPER_TASKS, size_of_test
from distill.downstream.results import Result, describe_silent
from distill.downstream.tasks import RECORDED, TASKS, task_of
from distill.errors import UsageError
from distill.markdown import shortened

_OWN_WIDTH = {"classes": 256, "characters": 1024, "phones": 256}
_TESTED_ON = {"test set": "speech", "test audio": "speech", "noise": "noise", "noise audio": "noise"}
"""Settings of a result that should be equal in all rows, and what they are about."""
_MOST_CHANGES, _LONGEST = 6, 120
"""Of a recipe that a note lists, and letters of each."""
_NEW_NOISE = ("fsd", "dns")
"""Corpora that the paper keeps for tests."""


class Notes:
    """Collects notes and prints each once: `S1, clean, fsd; S4, clean: the note`."""

    def __init__(self) -> None:
        self._notes: dict[str, dict[str, list[str]]] = {}

    def add(self, text: str, row: str, condition: str | None = None) -> None:
        """Add a note about a row, or a condition of it."""
        conditions = self._notes.setdefault(text, {}).setdefault(row, [])
        if condition is not None and condition not in conditions:
            conditions.append(condition)

    def lines(self) -> list[str]:
        """The notes, in the order in which they were added."""
        lines = []
        for text, rows in self._notes.items():
            several = "; " if any(rows.values()) else ", "
            lines.append(f"{several.join(', '.join([row, *found]) for row, found in rows.items())}: {text}")
        return lines


def about_heads(task: str, results: Sequence[Result], *, published: bool) -> str:
    """Steps of the heads (and the paper's, if different), protocol and variant."""
    steps = sorted({result.head_steps for result in results})
    text = f"Heads: {', '.join(f'{n:,}' for n in steps)} steps"
    if published and steps != [TASKS[task].steps]:
        text = f"{text}, the paper's {TASKS[task].steps:,}"
    text += f"; protocol {', '.join(sorted({result.protocol for result in results}))}"
    variants = sorted({result.variant for result in results if is_distorted(result.condition)})
    return f"{text}; distortions: variant {', '.join(variants)}" if variants else text


def is_distorted(condition: str) -> bool:
    """Whether we distort the test speech of a condition."""
    return condition != "clean" and condition not in RECORDED


def put_by_name(results: Iterable[Result]) -> list[str]:
    """A note if the user put a model into this row of the paper."""
    models = sorted({result.model for result in results if result.row is not None})
    return [f"put into this row by its name (row=...): {', '.join(models)}"] if models else []


def other_speech(results: Iterable[Result]) -> list[str]:
    """A note if a row was not tested on the complete test set, by its number of utterances."""
    for result in results:
        size = size_of_test(result.task, result.condition, result.fold)
        if size is not None and result.n_utterances != size:
            where = result.condition if result.fold is None else f"{result.condition}, fold {result.fold}"
            whose = "the paper's" if result.task in PAPER_TASKS else "the corpus's"
            return [
                f"not {whose} test set: {result.n_utterances:,} utterances, not {size:,}, in {where} for one"
            ]
    return []


def other_settings(results: Sequence[Result]) -> list[str]:
    """A note if heads of a row have other settings, speech or noise than the task's own."""
    if not results or results[0].task not in TASKS:
        return []
    task = task_of(results[0].task, results[0].protocol)
    own = {
        "batch_size": task.batch_size,
        "lr": task.lr,
        "every_n_steps": task.every_n_steps,
        "width": _OWN_WIDTH[task.kind],
        "crop_s": task.crop_s,
    }
    every = [_settings(result) for result in results]
    parts = []
    for name, value in own.items():
        if other := sorted({settings[name] or 0 for settings in every if name in settings} - {value or 0}):
            parts.append(f"{name} {', '.join(f'{number:g}' for number in other)}, not {value or 0:g}")
    for name in ("sources", "noises"):
        if used := sorted({key for settings in every for key in settings.get(name) or ()}):
            parts.append(f"other {name} for {', '.join(used)}")
    if labels := sorted({settings.get("label") or task.label for settings in every} - {task.label}):
        parts.append(f"label {', '.join(labels)}")
    return [f"not the task's own settings: {'; '.join(parts)}"] if parts else []


def other_recipe(results: Iterable[Result]) -> list[str]:
    """A note if a row is called by a recipe that ships, and models of it were trained with other settings."""
    for result in results:
        if result.row is not None or result.recipe is None or result.recipe_settings is None:
            continue
        if changes := changes_of(result.recipe, result.recipe_settings):
            return [f"not {result.recipe} as it ships: {_first(changes)}"]
    return []


def _first(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - _MOST_CHANGES} more"] if len(texts) > _MOST_CHANGES else []
    return "; ".join([*(shortened(text, _LONGEST) for text in texts[:_MOST_CHANGES]), *more])


def silent_clips(results: Sequence[Result]) -> list[str]:
    """A note if utterances of a cell stayed without noise or room because something was silent."""
    silent = sum((Counter(result.silent) for result in results), Counter())
    total = sum(result.n_utterances for result in results)
    said = describe_silent(silent)
    return [f"of {total:,} utterances {said}"] if said else []


def heard_noises(results: Iterable[Result]) -> dict[str, str]:
    """By condition, a note if noise that is meant to be new there was heard in training."""
    notes = {}
    for result in results:
        if result.condition in RECORDED:
            continue
        try:
            corpora = set(find_condition(result.condition).corpora) & set(_NEW_NOISE)
        except UsageError:  # a condition of another version
            continue
        if heard := sorted(corpora.intersection(result.heard)):
            notes[result.condition] = (
                f"trained with {' and '.join(heard)} noise, itself or a teacher of it: not new noise here"
            )
    return notes


def note_other_tests(rows: Mapping[str, Sequence[Result]], notes: Notes) -> None:
    """Note which rows were tested on other speech or noise than the first one tested under a condition.

    Args:
        rows: results by label, in the order of the table; what was not noted with them is not compared.
        notes: to add to.
    """
    first: dict[tuple[str, int | None, str], tuple[str, Any]] = {}
    differing: dict[tuple[str, str], dict[str, list[str]]] = {}
    for label, results in rows.items():
        for result in results:
            for name in _TESTED_ON.keys() & result.settings.keys():
                value = result.settings[name]
                before, theirs = first.setdefault((result.condition, result.fold, name), (label, value))
                if before != label and value != theirs:
                    found = differing.setdefault((label, result.condition), {}).setdefault(before, [])
                    found += [_TESTED_ON[name]] * (_TESTED_ON[name] not in found)
    for (label, condition), others in differing.items():
        for before, whats in others.items():
            text = (
                f"tested on other {' and '.join(sorted(whats, reverse=True))} than {before}: not comparable"
            )
            notes.add(text, label, condition)


def note_several_rows(rows: Mapping[str, Sequence[Result]], names: Mapping[str, str], notes: Notes) -> None:
    """Note models that have results in several rows, because some were put elsewhere with `row=...`.

    Args:
        rows: results by label.
        names: of the rows by label, without features.
        notes: to add to.
    """
    homes: dict[str, set[str]] = {}
    placed = {result.checkpoint_hash for results in rows.values() for result in results if result.row}
    for label, results in rows.items():
        for model in placed.intersection(result.checkpoint_hash for result in results):
            homes.setdefault(model, set()).add(names[label])
    for label, results in rows.items():
        others = set().union(*(homes.get(result.checkpoint_hash, ()) for result in results)) - {names[label]}
        if others:
            notes.add(f"the same model is in row {', '.join(sorted(others))}, too", label)


def mixed(results: Sequence[Result]) -> list[str]:
    """Notes if results that are averaged have different steps, test sets or settings."""
    notes = []
    if len(steps := {result.head_steps for result in results}) > 1:
        notes.append(f"heads of {min(steps):,} to {max(steps):,} steps are averaged")
    differing = differing_settings(results)
    sizes = {(result.fold, result.n_utterances) for result in results}
    if len(sizes) > len({fold for fold, _ in sizes}) and "test set" not in differing:
        notes.append("seeds were tested on different numbers of utterances")
    if differing:
        notes.append(f"results of different {', '.join(differing)} are averaged")
    methods = [set(result.recipe_settings) for result in results if result.recipe_settings is not None]
    common = set.intersection(*methods) if methods else set()
    if words := sorted(set().union(*methods) - common):
        notes.append(f"models of recipes with different settings are averaged: {_first(words)}")
    return notes


def differing_settings(results: Iterable[Result]) -> list[str]:
    """Names of the settings in which seeds differ; one that was not noted is not compared."""
    first: dict[tuple[int | None, str], Any] = {}
    differing: dict[str, None] = {}
    for result in results:
        for name, value in _settings(result).items():
            # Each fold is tested on speech of its own.
            if first.setdefault((result.fold, name), value) != value:
                differing[name] = None
    return list(differing)


def _settings(result: Result) -> dict[str, Any]:
    """The settings of a result; an unset width is the head's default."""
    settings = dict(result.settings)
    if "width" in settings and settings["width"] is None and result.task in TASKS:
        settings["width"] = _OWN_WIDTH[TASKS[result.task].kind]
    return settings
