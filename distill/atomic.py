"""Files that appear under their name only when they are complete, so that no part of one is ever read."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_LEFT = re.compile(r"\.(partial|[0-9a-f]{12})\..+")
"""Names that `atomic` gives to files that are not complete yet."""


@contextmanager
def atomic(path: Path, *, sole: bool = False) -> Iterator[Path]:
    """A path to write to, in the same folder; at the end of the block it takes the place of `path`.

    Its name ends as that of `path` does: libraries choose formats and compression by the suffix. What was
    written is flushed to the disk first, so that after a power cut either the old or the new file exists. If
    the block fails, `path` stays as it was. A link under either name is replaced, never followed.

    Args:
        path: the file to make or replace; its folder is made if missing.
        sole: no other process writes this file at the same time: the temporary name is then always the same,
            and what a killed process left is overwritten instead of taking up room for ever.

    Raises:
        OSError: if it cannot be written; names `path`.

    Example:
        >>> with atomic(Path("scores.json")) as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    temporary = path.with_name(f".{'partial' if sole else uuid.uuid4().hex[:12]}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a killed process, or a link that somebody has put there
        yield temporary
        flush(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # others are about what the block reads
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    with suppress(OSError):  # not every file system can flush a folder
        flush(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Delete what processes that were killed while they wrote files have left in a folder.

    To be called only where no other process writes at the same time.
    """
    with suppress(OSError):  # it does not exist, or is not ours to tidy up
        for path in [path for path in folder.iterdir() if _LEFT.fullmatch(path.name)]:
            with suppress(OSError):  # a folder, say
                path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, completely or not at all.

    Raises:
        OSError: as `atomic`.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file, completely or not at all.

    Raises:
        OSError: as `atomic`.
        TypeError: for values that JSON does not have.
        ValueError: for NaN and infinities, which it does not have either; names `path`.
    """
    try:
        text = json.dumps(values, indent=indent, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"{path} cannot hold NaN or infinity: {error}") from None
    write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or holds something other than an object; names `path`.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a readable JSON file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}, expected a JSON object")
    return values


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
