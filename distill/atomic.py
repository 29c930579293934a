"""Files that appear under their name only when they are complete, so that no part of one is ever read.

And text that others wrote, read with limits: its size says what it can take in memory and time.
"""

from __future__ import annotations

import gc
import json
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distill.errors import DamagedFile, first_line

_LEFT = re.compile(r"\.(partial|[0-9a-f]{12})\..+")
"""Names that `atomic` gives to files that are not complete yet."""
MOST_BYTES = 32 << 20
"""Of a JSON file. Python takes up to 25 times as much memory for it: 0.8 GB."""
MOST_LEVELS = 50
"""Of lists and objects in each other; ours have at most 6. Comparing and printing values is recursive."""
MAX_YAML = 256 << 10
"""Bytes of a YAML file, of which Python reads about 50 000 a second; the longest recipe of ours has 4000."""
_MAX_NODES, _MAX_DEPTH = 20_000, 50
"""Values in a YAML file, those that an alias stands for counted again each time; lists in lists."""
_PLAIN_TAGS = (
    None,
    "!",
    *(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")),
)


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


def complete(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths without files that `atomic` has not finished: it is at it, or its process was killed."""
    return (path for path in paths if not _LEFT.fullmatch(path.name))


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


def read_json(path: Path, *, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """The object of a JSON file that anybody may have written.

    Args:
        path: of the file.
        most_bytes: that it may have.

    Raises:
        OSError: it cannot be read.
        DamagedFile: it is damaged, is no file, too large or nested too deeply, or holds something other than
            an object; names `path`.
    """
    content = read_bytes(path, most_bytes)
    with _without_collection():
        try:
            values = json.loads(content.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise DamagedFile(f"{path} is not a readable JSON file: {first_line(error)}") from None
        if not isinstance(values, dict):
            raise DamagedFile(f"{path} holds a {type(values).__name__}, expected a JSON object")
        level: list[Any] = [values]
        for _ in range(MOST_LEVELS):
            inner = (each.values() if isinstance(each, dict) else each for each in level)
            level = [value for each in inner for value in each if isinstance(value, dict | list)]
    if level:
        raise DamagedFile(f"{path} is nested more than {MOST_LEVELS} levels deep")
    return values


@contextmanager
def _without_collection() -> Iterator[None]:
    """While millions of containers are made, which Python would search for garbage again and again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """What a file holds that anybody may have written.

    Args:
        path: of the file.
        most_bytes: that it may have.

    Raises:
        OSError: it cannot be read.
        DamagedFile: it is larger, or may never end, such as a pipe.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # to open a folder is an error of its own
        raise DamagedFile(f"{path} is a pipe or a device, not a file")
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise DamagedFile(f"{path} has more than {most_bytes >> 10:,} KiB: too large for what it should hold")
    return content


def read_yaml(path: Path) -> Any:
    """What a YAML file holds: values, lists and mappings.

    Raises:
        OSError: it cannot be read.
        DamagedFile: it is damaged, or one that `check_yaml` refuses; names `path`.
    """
    import yaml

    content = read_bytes(path, MAX_YAML)
    try:
        text = content.decode("utf-8")
        check_yaml(text)
        return yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise DamagedFile(f"{path} is not a readable YAML file: {said}") from None


def check_yaml(text: str) -> None:
    """Refuse YAML that means more than it says, before anything is made of it.

    Raises:
        ValueError: for lists that contain themselves, aliases of aliases that amount to more than any file
            needs, tags of other things than plain values, and too much of anything.
        yaml.YAMLError: if it is no YAML.
    """
    import yaml

    sizes: dict[str | None, int] = {}  # how many values an anchor stands for
    unfinished: list[tuple[str | None, int]] = []  # its anchor, and how many values came before
    n_values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            if any(event.anchor == anchor for anchor, _ in unfinished):
                raise ValueError(f"line {line}: {ascii(event.anchor)[:80]} contains itself")
            n_values += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag not in _PLAIN_TAGS:
                raise ValueError(f"line {line}: {ascii(event.tag)[:80]} is not a kind of plain values")
            if isinstance(event, yaml.ScalarEvent):
                sizes[event.anchor] = 1
            else:
                unfinished.append((event.anchor, n_values))
            n_values += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = unfinished.pop()
            sizes[anchor] = n_values - before
        if n_values > _MAX_NODES:
            raise ValueError(f"line {line}: there are more than {_MAX_NODES:,} values, aliases included")
        if len(unfinished) > _MAX_DEPTH:
            raise ValueError(f"line {line}: lists or sections are nested too deeply")


def flush(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
