"""Lists of audio as a source: our TSV, whose header has a column `path`, and fairseq's manifests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from distill.data.text import Row, read_lines, read_table
from distill.errors import DataError


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
    lines = read_lines(path)
    if _is_fairseqs(lines) and not wanted:
        home = path.parent / lines[0][1].strip()
        rows: list[Row] = [(number, {"path": line.split("\t")[0]}) for number, line in lines[1:]]
    else:
        home, rows = path.parent, read_table(path, ["path", *wanted], delimiters="\t,;")
    entries = []
    for number, row in rows:
        if any(row[column] != value for column, value in wanted.items()):
            continue
        file = row.pop("path")
        if not PurePath(file).name or PurePath(file).name == "..":
            raise DataError(f"{path}: line {number} has no path ({file!r})")
        entries.append(Entry(str(PurePath(file).with_suffix("")), home / file, row, f"line {number}"))
    if entries and not any(entry.file.exists() for entry in entries):
        raise DataError(
            f"{path}: no file that it names exists, such as {entries[0].file}; paths in a TSV are relative "
            "to the folder that the TSV is in"
        )
    return entries


def _is_fairseqs(lines: list[tuple[int, str]]) -> bool:
    """Whether a list is a folder, and after it lines `PATH <tab> NUMBER`."""
    (_, first), *rest = lines or [(1, "path")]
    cells = [line.split("\t") for _, line in rest]
    return (
        first.strip() != "path"
        and "\t" not in first
        and bool(cells)
        and all(len(row) == 2 and row[1].strip().isdecimal() for row in cells)
    )
