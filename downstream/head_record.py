"""What is noted with a head: of which model, speech and settings it is (`heads/NAME/head.json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.atomic import write_text
from distill.errors import UserError
from distill.processes import is_first_process

_HEAD = "head.json"
MENDING = "mending"
"""In a head's record: where audio lies that may be mended."""
AUDIO = ("training audio",)
"""Of a head's record, what its recordings hold."""


def read_head(folder: Path) -> dict[str, Any]:
    """What was noted with a head; nothing of one that is not begun."""
    path = folder / _HEAD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def sign_head(folder: Path, identity: Mapping[str, Any], *, places: str = "") -> None:
    """Note what a head is of.

    Args:
        folder: of the head.
        identity: what makes a head that head.
        places: of where its audio lies: what was found broken may be mended there (`allow_mending`).

    Raises:
        UserError: if the folder has the head of something else.
    """
    identity = json.loads(json.dumps(identity))  # tuples become lists
    found = read_head(folder)
    mended = bool(places) and found.get(MENDING) == places
    check_head(folder, {key: value for key, value in identity.items() if not (mended and key in AUDIO)})
    if (mended or not found) and is_first_process():
        write_text(folder / _HEAD, json.dumps(identity, indent=2) + "\n")


def allow_mending(folder: Path, places: str) -> None:
    """Note that a training stopped as too much of its audio is unusable: it goes on with what is mended."""
    if (head := read_head(folder)) and is_first_process():
        write_text(folder / _HEAD, json.dumps(head | {MENDING: places}, indent=2) + "\n")


def check_head(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a head of something else; what was not noted with it is not asked about.

    Args:
        folder: of the head; one that is not begun may be anything.
        wanted: all or part of what makes a head that head.

    Raises:
        UserError: naming what differs.
    """
    found = read_head(folder)
    differing = [key for key, value in wanted.items() if found.get(key, value) != value]
    if differing:
        raise UserError(
            f"{folder} has a head of other {' and '.join(differing)}: choose another --out, or remove it"
        )
