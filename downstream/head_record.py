"""The record of a head, `heads/NAME/head.json`: of which model, speech and settings it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from distill.atomic import read_json, write_json
from distill.downstream.result_schema import check
from distill.errors import DamagedFile, differing_keys, refuse_other_settings
from distill.processes import is_first_process

_HEAD = "head.json"
REPAIRABLE = "mending"
"""Key of a record: hash of where training audio is that was unusable and may be repaired."""
AUDIO = ("training audio",)
"""Keys of a record: contents of the training audio."""


class Head(TypedDict, total=False):
    """What is looked up in a record; the rest of it is only compared."""

    checkpoint: str
    label: str | None
    labels: list[Any]
    protocol: str
    width: int | None


def read_head(folder: Path) -> dict[str, Any]:
    """The record of a head; empty if its training was not begun.

    Raises:
        DamagedFile: it cannot be one.
    """
    path = folder / _HEAD
    if not path.exists():
        return {}
    found = read_json(path)
    try:
        check(found, Head, "the record")
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged ({error}): remove {folder} to train this head again") from None
    return found


def sign_head(folder: Path, identity: Mapping[str, Any], *, locations: str = "") -> None:
    """Write the record of a head.

    Args:
        folder: of the head.
        identity: what determines the head.
        locations: hash of where its audio is: unusable audio may be repaired there (`allow_repair`).

    Raises:
        UserError: if the folder has another head.
    """
    identity = json.loads(json.dumps(identity))  # tuples become lists
    found = read_head(folder)
    repaired = bool(locations) and found.get(REPAIRABLE) == locations
    check_head(folder, {key: value for key, value in identity.items() if not (repaired and key in AUDIO)})
    if (repaired or not found) and is_first_process():
        write_json(folder / _HEAD, identity)


def allow_repair(folder: Path, locations: str) -> None:
    """Note that a training ended because too much audio was unusable: it may continue with repaired files."""
    if (head := read_head(folder)) and is_first_process():
        write_json(folder / _HEAD, head | {REPAIRABLE: locations})


def check_head(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Refuse a head of another model, other speech or settings; what its record lacks is not compared.

    Args:
        folder: of the head; nothing is refused if its training was not begun.
        wanted: all or part of what determines the head.

    Raises:
        UserError: naming what differs.
    """
    refuse_other_settings(folder, differing_keys(read_head(folder), wanted))
