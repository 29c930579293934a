"""Reading text that people and their tools wrote: lists, tables, lexica, transcripts.

Everything is UTF-8. A line ends at a line feed, with or without a carriage return before it, and nowhere
else: `str.splitlines` also cuts at form feeds, U+0085 and U+2028, which occur inside transcripts.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import shlex
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from distill.data.bounded import bounded_lines, opened
from distill.errors import DataError, listed

Row = tuple[int, dict[str, str]]
"""The number of the line that a row of a table begins in, from 1, and its cells by column."""


_COLUMNS_NAMED = 20  # of a header, in messages
_MOST_BYTES = 256 * 2**20  # of a text that is read as a whole; what is larger is data
_MOST_LINES = 2_000_000  # that are held in memory, which takes a gigabyte: more are a manifest's business


def read_text(path: str | Path) -> str:
    r"""All of a text file, without a byte order mark; `\r\n` stays as it is.

    Args:
        path: UTF-8; unpacked where the name ends in `.gz`.

    Raises:
        DataError: it cannot be read, is a damaged gzip file, too large or not UTF-8, naming the line. A zero
            byte is taken for another encoding (UTF-16), too.
    """
    path = Path(path)
    with _explained(path), opened(path) as (_, source):
        content = source.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DataError(f"{path} has more than {_MOST_BYTES >> 20} MB, too much for a text of this kind")
    try:
        text = content.decode("utf-8")
        wrong = text.find("\0")
        line = text.count("\n", 0, wrong) + 1
    except UnicodeDecodeError as error:
        text, wrong = "", error.start
        line = content.count(b"\n", 0, wrong) + 1
    if wrong >= 0:
        raise _other_encoding(path, line)
    return text.removeprefix("\ufeff")


def text_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """All lines of a text file, one after the other, each with its number, from 1, and without its end.

    Args:
        path: as for `read_text`, of any size.

    Raises:
        DataError: as `read_text`; a line is too long, or there are too many.
    """
    path = Path(path)
    with _explained(path), opened(path) as (_, source):
        for number, content in bounded_lines(source, path):
            try:
                line = content.decode("utf-8")
            except UnicodeDecodeError:
                raise _other_encoding(path, number) from None
            if "\0" in line:
                raise _other_encoding(path, number)
            if number > _MOST_LINES:
                raise DataError(
                    f"{path} has more than {_MOST_LINES} lines, too many to hold in memory: for speech, make "
                    "a manifest of cuts with distill data prepare folder"
                )
            line = line.removeprefix("\ufeff") if number == 1 else line
            yield number, line.removesuffix("\n").removesuffix("\r")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in one line why a file cannot be read."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None


def _other_encoding(path: Path, line: int) -> DataError:
    return DataError(
        f"{path} is not UTF-8 (line {line}); convert it: `iconv -f LATIN1 -t UTF-8 "
        f"{shlex.quote(str(path))} > new` (name the file's real encoding after -f)"
    )


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its line number, from 1.

    Args:
        path: as for `text_lines`.

    Raises:
        DataError: as `text_lines`.
    """
    return list(filled(text_lines(path)))


def filled(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Those that are not blank."""
    return ((number, line) for number, line in lines if line.strip())


def read_table(path: str | Path, columns: Sequence[str], *, delimiters: str = ",;\t") -> list[Row]:
    """The rows of a CSV or TSV file, whose first line names the columns.

    Blanks around a cell go. Quotes mean what they mean in a CSV file, but where cells are separated by tabs
    they do so only if the header itself is quoted: text that is quoted is common there.

    Args:
        path: as for `text_lines`.
        columns: columns that it must have.
        delimiters: what may separate cells; the one that finds most of `columns` in the header is used.

    Raises:
        DataError: as `text_lines`; a column is missing; a row has fewer or more cells than the header,
            naming its line.
    """
    return list(table_rows(path, columns, delimiters=delimiters))


def table_rows(path: str | Path, columns: Sequence[str], *, delimiters: str = ",;\t") -> Iterator[Row]:
    """As `read_table`, one after the other."""
    number, first = next(filled(text_lines(path)), (1, ""))
    heads = {delimiter: _header(path, number, first, delimiter) for delimiter in delimiters}
    delimiter = max(delimiters, key=lambda one: (len({*columns} & {*heads[one]}), len(heads[one])))
    header = heads[delimiter]
    lacking = [column for column in columns if column not in header]
    if lacking:
        raise DataError(
            f"{path}: no column {', '.join(map(repr, lacking))} in its header "
            f"({listed(header, _COLUMNS_NAMED) if first else 'empty file'})"
        )
    if delimiter == "\t" and not first.startswith('"'):
        split = ((number, line.split("\t")) for number, line in filled(text_lines(path)))
    else:
        split = _parse(text_lines(path), delimiter, path)
    for number, cells in itertools.islice(split, 1, None):
        yield number, _row(path, number, header, cells)


def _header(path: str | Path, number: int, line: str, delimiter: str) -> list[str]:
    try:
        return _cells(next(csv.reader([line], delimiter=delimiter), []))
    except csv.Error as error:
        raise DataError(f"{path}: line {number}, its header, cannot be read ({error})") from None


def _parse(
    lines: Iterable[tuple[int, str]], delimiter: str, path: str | Path
) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader((f"{line}\n" for _, line in lines), delimiter=delimiter, strict=True)
    number = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: line {number} cannot be read ({error})") from None


def _cells(cells: Sequence[str]) -> list[str]:
    return [cell.strip(" ") for cell in cells]


def _row(path: str | Path, number: int, header: list[str], cells: list[str]) -> dict[str, str]:
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    if len(cells) != len(header):
        raise DataError(
            f"{path}: line {number} has {len(cells)} cells, its header has {len(header)} "
            f"({listed(header, _COLUMNS_NAMED)})"
        )
    return dict(zip(header, _cells(cells), strict=True))
