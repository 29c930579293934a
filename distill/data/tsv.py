"""Lists of audio as a source: our TSV, whose header has a column `path`, and fairseq's manifests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from distill.data.text import Row, filled, table_rows, text_lines
from distill.errors import DataError

_LOOKED_FOR = 1000  # files of a list; if none of that many exists, the others need not be looked for


@dataclass(frozen=True)
class Entry:
    """An audio file of a list or folder."""

    id: str
    """Its path in the list, or below the folder, without suffix."""
    file: Path
    columns: Mapping[str, str]
    """The other cells of its row."""
    where: str = ""
    """Its line in the list: "line 7"; "" in a folder."""


def read_tsv(path: Path, wanted: Mapping[str, str]) -> list[Entry]:
    """The rows of a list.

    Args:
        path: a table with a column `path`, relative to the table's folder; or fairseq's manifest, whose first
            line is a folder (relative to the manifest, if it is) and the others path and number of samples.
        wanted: by column, the value that a row must have to be kept.

    Raises:
        DataError: it is neither, lacks a column, a row has no path, or no file exists.
    """
    home, rows = path.parent, table_rows(path, ["path", *wanted], delimiters="\t,;")
    if not wanted and _is_fairseqs(path):
        (_, folder), *_ = islice(filled(text_lines(path)), 1)
        home, rows = path.parent / folder.strip(), _rows_of_fairseq(path)
    entries: list[Entry] = []
    any_exists = False
    for number, row in rows:
        if any(row[column] != value for column, value in wanted.items()):
            continue
        file = row.pop("path")
        if not PurePath(file).name or PurePath(file).name == "..":
            raise DataError(f"{path}: line {number} has no path ({file!r})")
        entry = Entry(str(PurePath(file).with_suffix("")), home / file, row, f"line {number}")
        entries.append(entry)
        any_exists = any_exists or _exists(entry.file)
        if not any_exists and len(entries) == _LOOKED_FOR:
            break
    if entries and not any_exists:
        which = f"none of the first {_LOOKED_FOR} files" if len(entries) == _LOOKED_FOR else "no file"
        raise DataError(
            f"{path}: {which} that it names exists, such as {entries[0].file}; paths in a TSV are relative "
            "to the folder that the TSV is in"
        )
    return entries


def _exists(file: Path) -> bool:
    """Whether there is such a file; a path that is too long is none."""
    try:
        return file.exists()
    except OSError:
        return False


def _is_fairseqs(path: Path) -> bool:
    """Whether a list is a folder, and after it a line `PATH <tab> NUMBER`."""
    lines = [line for _, line in islice(filled(text_lines(path)), 2)]
    if len(lines) < 2 or lines[0].strip() == "path" or "\t" in lines[0]:
        return False
    return _cells_of_fairseq(lines[1]) is not None


def _rows_of_fairseq(path: Path) -> Iterator[Row]:
    """The paths of fairseq's manifest."""
    for number, line in islice(filled(text_lines(path)), 1, None):
        cells = _cells_of_fairseq(line)
        if cells is None:
            raise DataError(f"{path}: line {number} is not a path, a tab and a number of samples")
        yield number, {"path": cells[0]}


def _cells_of_fairseq(line: str) -> list[str] | None:
    """Path and number of samples; None if the line is something else."""
    cells = line.split("\t")
    return cells if len(cells) == 2 and cells[1].strip().isdecimal() else None
