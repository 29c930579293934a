"""Command-line options made from the fields of a dataclass, and back.

A field's type says how its word is read, its default whether it must be given; its metadata hold "help" and,
where it applies, "positional" and "metavar".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, fields
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

Options = TypeVar("Options")


def add_fields(parser: argparse.ArgumentParser, kind: type) -> None:
    """An option, or a positional word, for each field of a dataclass.

    Args:
        parser: gets them.
        kind: its fields are str, int, float, Path or a Literal, or one of these or None; bool, which must be
            False by default; or Sequence[str], which takes any number of words.
    """
    hints = get_type_hints(kind)
    for field in fields(kind):
        name = field.name if field.metadata.get("positional") else f"--{field.name.replace('_', '-')}"
        settings: dict[str, Any] = _read_as(_without_none(hints[field.name]))
        settings |= {key: field.metadata[key] for key in ("help", "metavar") if key in field.metadata}
        if name.startswith("--"):
            given = field.default is not MISSING
            settings |= {"default": field.default} if given else {"required": True}
        parser.add_argument(name, **settings)


def from_namespace(kind: type[Options], options: argparse.Namespace) -> Options:
    """The dataclass that `add_fields` made options of, with their values."""
    return kind(**{field.name: getattr(options, field.name) for field in fields(kind)})  # pyright: ignore


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        (hint,) = (member for member in get_args(hint) if member is not type(None))
    return hint


def _read_as(hint: Any) -> dict[str, Any]:
    """Argparse's words for a type."""
    if hint is bool:
        return {"action": "store_true"}
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if get_origin(hint) is Sequence:
        return {"nargs": "*", "type": get_args(hint)[0]}
    return {"type": hint}
