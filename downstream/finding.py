"""Finding the files of evaluations below a folder that anybody may have made."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from distill.atomic import complete

logger = logging.getLogger(__name__)

MOST_LEVELS = 40
"""Folders in each other that are entered: those of sweeps have three levels. `Path.rglob` and `os.walk` call
themselves for each, until Python gives up."""


def find_below(folder: Path, pattern: str) -> Iterator[Path]:
    """The complete files and the folders in and below one that match; links to folders are not followed.

    Args:
        folder: that exists.
        pattern: of the last parts, such as "results/*.json".
    """
    level = [folder]
    for _ in range(MOST_LEVELS + 1):
        inner: list[Path] = []
        for each in level:
            yield from complete(each.glob(pattern))
            inner += _folders_in(each)
        level = inner
    if level:
        logger.warning("%s is nested more than %d levels deep: the rest is left out", folder, MOST_LEVELS)


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:  # that may not be read: nothing in it can be
        return []
