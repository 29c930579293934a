"""The folder of an analysis: what was measured, row by row, so that it can be continued and drawn again.

`analysis.json` holds the kind of analysis, its settings and its rows; `rows.csv` the rows for other programs;
figures lie beside them. `distill report` shows every such folder that it finds.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.atomic import read_json, write_json, write_text
from distill.downstream.finding import find_below
from distill.downstream.table_formats import cell_text
from distill.errors import DamagedFile, UserError, differing_keys, refuse_other_settings

FILE = "analysis.json"
MOST_ROWS = 1_000_000
"""Of an analysis; the largest of ours have some thousands."""
Row = dict[str, Any]
"""Plain values by column."""


class _ReadRow(Row):
    """A row of a file that anybody may have written: a column that it lacks is the file's fault."""

    __slots__ = ("path",)

    def __init__(self, values: Mapping[str, Any], path: Path):
        super().__init__(values)
        self.path = path

    def __missing__(self, column: str) -> Any:
        raise _damaged(self.path, f"a row has no {column}")


class Record:
    """Rows of one analysis in a folder.

    Args:
        folder: made if it does not exist.
        kind: of analysis, such as "probe waveform".
        settings: what the rows depend on besides their own columns, plain values: identities of speech and
            models, seeds.
        key: columns that identify a row.

    Raises:
        UserError: if the folder holds another analysis, naming what differs.
    """

    def __init__(self, folder: Path, kind: str, settings: Mapping[str, Any], key: Sequence[str]):
        self.folder, self.kind, self.settings, self.key = folder, kind, dict(settings), tuple(key)
        self.rows: list[Row] = []
        if (folder / FILE).exists():
            found = read_record(folder)
            if found["kind"] != kind:
                raise UserError(f"{folder} holds {found['kind']}, not {kind}: choose another --out")
            refuse_other_settings(folder, differing_keys(found["settings"], self.settings))
            self.settings = found["settings"] | self.settings  # also those that only some rows depend on
            self.rows = found["rows"]
            for row in self.rows:
                if any(isinstance(row[name], dict | list) for name in key):
                    raise _damaged(folder / FILE, "a row is named by a list")

    def find(self, **key: Any) -> list[Row]:
        """The rows with these values."""
        return [row for row in self.rows if all(row.get(name) == value for name, value in key.items())]

    def refuse_other_models(self, models: Mapping[str, str]) -> None:
        """Refuse a model that has the name, but not the identity, of one that the rows are of.

        Args:
            models: identity by name.

        Raises:
            UserError: naming it.
        """
        for row in self.rows:
            if models.get(row["model"], row["identity"]) != row["identity"]:
                raise UserError(
                    f"{self.folder} has another model by the name {row['model']}: choose another --out, or "
                    "rename the model"
                )

    def __contains__(self, key: Mapping[str, Any]) -> bool:
        return bool(self.find(**key))

    def add(self, *rows: Row) -> None:
        """Add rows, in place of those with the same key, and write everything."""
        new = {self._key(row): row for row in rows}
        self.rows = [row for row in self.rows if self._key(row) not in new] + list(rows)
        self.write()

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.key)

    def write(self) -> None:
        """Write both files.

        Raises:
            UserError: for a number that is not finite, which no file of ours holds.
        """
        for row in self.rows:
            for column, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    whose = ", ".join(map(str, self._key(row)))
                    raise UserError(
                        f"{self.folder}: {column} of {whose} is {value}: are the model's numbers finite?"
                    )
        write_json(self.folder / FILE, {"kind": self.kind, "settings": self.settings, "rows": self.rows})
        write_csv(self.folder / "rows.csv", self.rows)


def read_record(folder: Path) -> dict[str, Any]:
    """The `kind`, `settings` and `rows` of an analysis.

    Raises:
        UserError: if it is damaged.
    """
    path = folder / FILE
    try:
        found = read_json(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    kind, settings, rows = (found.get(name) for name in ("kind", "settings", "rows"))
    if not (isinstance(kind, str) and isinstance(settings, dict) and isinstance(rows, list)):
        raise _damaged(path, "kind, settings or rows are missing, or of another type")
    if len(rows) > MOST_ROWS or not all(isinstance(row, dict) for row in rows):
        raise _damaged(path, f"rows must be at most {MOST_ROWS:,} objects")
    return {"kind": kind, "settings": settings, "rows": [_ReadRow(row, path) for row in rows]}


def _damaged(path: Path, why: str) -> DamagedFile:
    return DamagedFile(f"{path} is damaged ({why}): remove it to measure again")


def find_records(folders: Sequence[Path]) -> Iterator[Path]:
    """The folders of analyses in and below some folders, sorted, each once."""
    yield from sorted({path.parent.resolve() for folder in folders for path in find_below(folder, FILE)})


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table, with the columns of all of them; no text in it is a formula (`cell_text`)."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(map(cell_text, columns))
    table.writerows([cell_text(row.get(column)) for column in columns] for row in rows)
    write_text(path, text.getvalue())
