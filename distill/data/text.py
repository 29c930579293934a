"""Reading text that people and their tools wrote: lists, tables, lexica, transcripts.

Everything is UTF-8. A line ends at a line feed, with or without a carriage return before it, and nowhere
else: `str.splitlines` also cuts at form feeds, U+0085 and U+2028, which occur inside transcripts.
"""

from __future__ import annotations

import csv
import gzip
import io
import shlex
import zlib
from collections.abc import Sequence
from pathlib import Path

from distill.errors import DataError

Row = tuple[int, dict[str, str]]
"""The number of the line that a row of a table begins in, from 1, and its cells by column."""


def read_text(path: str | Path) -> str:
    r"""All of a text file, without a byte order mark; `\r\n` stays as it is.

    Args:
        path: UTF-8; unpacked where the name ends in `.gz`.

    Raises:
        DataError: it cannot be read, is a damaged gzip file or not UTF-8, naming the line. A zero byte is
            taken for another encoding (UTF-16), too.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is not a file")
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None
    try:
        text = content.decode("utf-8")
        wrong = text.find("\0")
        line = text.count("\n", 0, wrong) + 1
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
        line = content.count(b"\n", 0, wrong) + 1
    if wrong >= 0:
        raise DataError(
            f"{path} is not UTF-8 (line {line}); convert it: `iconv -f LATIN1 -t UTF-8 "
            f"{shlex.quote(str(path))} > new` (name the file's real encoding after -f)"
        )
    return text.removeprefix("\ufeff")


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its line number, from 1.

    Args:
        path: as for `read_text`.

    Raises:
        DataError: as `read_text`.
    """
    return numbered_lines(read_text(path))


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """As `read_lines`, of a text in memory."""
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def read_table(path: str | Path, columns: Sequence[str], *, delimiters: str = ",;\t") -> list[Row]:
    """The rows of a CSV or TSV file, whose first line names the columns.

    Blanks around a cell go. Quotes mean what they mean in a CSV file, but where cells are separated by tabs
    they do so only if the header itself is quoted: text that is quoted is common there.

    Args:
        path: as for `read_text`.
        columns: columns that it must have.
        delimiters: what may separate cells; the one that finds most of `columns` in the header is used.

    Raises:
        DataError: as `read_text`; a column is missing; a row has fewer or more cells than the header,
            naming its line.
    """
    text = read_text(path)
    (_, first), *_ = numbered_lines(text) or [(1, "")]
    heads = {
        delimiter: _cells(next(csv.reader([first], delimiter=delimiter), [])) for delimiter in delimiters
    }
    delimiter = max(delimiters, key=lambda one: (len({*columns} & {*heads[one]}), len(heads[one])))
    header = heads[delimiter]
    lacking = [column for column in columns if column not in header]
    if lacking:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, lacking))} in its header "
            f"({', '.join(header) or 'empty file'})"
        )
    if delimiter == "\t" and not first.startswith('"'):
        split = [(number, line.split("\t")) for number, line in numbered_lines(text)]
    else:
        split = _parse(text, delimiter, path)
    return [(number, _row(path, number, header, cells)) for number, cells in split[1:]]


def _parse(text: str, delimiter: str, path: str | Path) -> list[tuple[int, list[str]]]:
    reader = csv.reader(
        io.StringIO(text.replace("\r\n", "\n"), newline="\n"), delimiter=delimiter, strict=True
    )
    rows, number = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((number, cells))
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {number} cannot be read ({error})") from None
    return rows


def _cells(cells: Sequence[str]) -> list[str]:
    return [cell.strip(" ") for cell in cells]


def _row(path: str | Path, number: int, header: list[str], cells: list[str]) -> dict[str, str]:
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(header):
        raise DataError(
            f"{path}: line {number} has {len(cells)} cells, its header has {len(header)} "
            f"({', '.join(header)})"
        )
    return dict(zip(header, _cells(cells), strict=True))
