"""Scripts that let a shell complete the words of `distill`, written by shtab from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.config import recipe_names
from distill.downstream.tasks import TASKS

SHELLS = ("bash", "zsh", "fish")

_FILES = {"checkpoint", "checkpoints", "student", "students", "teacher", "codebook", "speech", "data"}
"""Arguments that are files or folders, or may be, and are read as plain words."""


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What `distill completion SHELL` prints.

    Args:
        parser: of the `distill` command; it is changed.
        shell: one of `SHELLS`.
    """
    import shtab

    parser = _fit_for_shells(parser)
    choices = {"recipe": recipe_names(), "task": list(TASKS)}
    for action in _actions(parser):
        if action.dest in choices:
            action.choices = [*(action.choices or ()), *choices[action.dest]]
        elif action.choices is None and (action.type is Path or action.dest in _FILES):
            action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
    return shtab.complete(parser, shell)


def _fit_for_shells(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Without the verb of two words: "targets" is a word after "adapt" then, next to its recipes."""
    (verbs,) = _subparsers(parser)
    targets = verbs.choices.pop("adapt targets")
    verbs._choices_actions = [action for action in verbs._choices_actions if action.dest != "adapt targets"]
    adapt = verbs.choices["adapt"]
    for action in targets._actions:
        if action.option_strings and not {*action.option_strings} & {*adapt._option_string_actions}:
            adapt._add_action(action)
    for action in adapt._actions:
        if action.dest == "recipe":
            action.choices = ["targets"]
    return parser


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    yield from parser._actions
    for verbs in _subparsers(parser):
        for inner in verbs.choices.values():
            yield from _actions(inner)


def _subparsers(parser: argparse.ArgumentParser) -> list[Any]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
