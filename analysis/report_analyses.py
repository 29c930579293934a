"""What a report shows of analyses: their figures, and the beginning of their rows.

Everything comes from files that anybody may have written: what is damaged is left out with a warning, texts
are made printable and cut, figures are checked, and the page has a limit.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distill.analysis.record import find_records, read_record
from distill.analysis.run_logs import unique_labels
from distill.atomic import complete, read_bytes
from distill.errors import UserError
from distill.markdown import shortened

logger = logging.getLogger(__name__)

MOST_ROWS = 100
"""Rows of an analysis on the page."""
MOST_COLUMNS = 20
"""Columns of an analysis on the page."""
MOST_BYTES = 20_000_000
"""Of all figures of a page together."""
_LONGEST = 80  # letters of a cell
_LONGEST_SETTINGS = 300
_HASH = re.compile(r"\b([0-9a-f]{8})[0-9a-f]{8,}\b")
Value = TypeVar("Value")
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A PNG."""

    name: str
    content: bytes
    width_px: int


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The beginning of a table, as texts."""

    columns: Sequence[str]
    cells: Sequence[Sequence[str]]
    said: str
    """How many rows, and how many of them are shown."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """A folder of an analysis."""

    label: str
    """The folder's name, with as many parents as tell it apart from the others."""
    kind: str
    settings: str
    """In short."""
    figures: Sequence[Figure]
    rows: Rows


def read_analyses(folders: Sequence[Path], *, most_bytes: int = MOST_BYTES) -> dict[Path, Analysis]:
    """All analyses in and below some folders, by folder.

    What is damaged is warned about and left out, and so are figures beyond the limit.

    Args:
        folders: that exist.
        most_bytes: of all figures together.
    """
    records = {}
    for folder in find_records(folders):
        try:
            records[folder] = read_record(folder)
        except (UserError, OSError) as error:
            logger.warning("%s is left out: %s", folder, str(error) or "it is damaged")
    found = {}
    for (folder, record), label in zip(records.items(), unique_labels(list(records)), strict=True):
        figures = list(_figures(folder, most_bytes))
        most_bytes -= sum(len(figure.content) for figure in figures)
        found[folder] = Analysis(
            label=shortened(label, 200),
            kind=shortened(record["kind"], _LONGEST),
            settings=settings_in_short(record["settings"]),
            figures=figures,
            rows=first_rows(record["rows"]),
        )
    return found


def _figures(folder: Path, most_bytes: int) -> Iterator[Figure]:
    """The PNGs in a folder, by name, as many as there is room for."""
    left_out = []
    for path in sorted(complete(folder.glob("*.png"))):
        try:
            content = read_bytes(path, MOST_BYTES)
            width, _ = png_size(content)
        except (OSError, ValueError) as error:
            logger.warning("%s is left out: %s", path, error)
            continue
        most_bytes -= len(content)
        if most_bytes < 0:
            left_out.append(path.name)
            continue
        yield Figure(name=shortened(path.stem, 200), content=content, width_px=width)
    if left_out:
        logger.warning("%s: %d figures are left out, the page would be too large", folder, len(left_out))


def png_size(content: bytes) -> tuple[int, int]:
    """Width and height of a whole PNG.

    Raises:
        ValueError: if it is something else, or damaged.
    """
    place, kinds, size = len(_PNG), [], (0, 0)
    if not content.startswith(_PNG):
        raise ValueError("it is not a PNG")
    while place + 12 <= len(content) and kinds[-1:] != [b"IEND"]:
        (length,) = struct.unpack_from(">I", content, place)
        body, place = content[place + 4 : place + 8 + length], place + 12 + length
        if content[place - 4 : place] != struct.pack(">I", zlib.crc32(body)):
            raise ValueError("the PNG is damaged")
        kinds.append(body[:4])
        if body[:4] == b"IHDR" and length == 13:
            size = struct.unpack_from(">II", body, 4)
    if not (min(size) > 0 and max(size) <= 20_000 and b"IDAT" in kinds and kinds[-1] == b"IEND"):
        raise ValueError(f"the PNG is not whole, or of an unusual size ({size[0]} x {size[1]})")
    return size


def settings_in_short(settings: Mapping[str, Any]) -> str:
    """Settings in one line, hashes by their first digits: seed 0 · noises fsd: 0123abcd."""
    texts = (f"{name} {_in_short(value)}" for name, value in _first(settings.items()))
    return shortened(" · ".join(texts), _LONGEST_SETTINGS)


def _in_short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_in_short(each)}" for key, each in _first(value.items()))
    if isinstance(value, list):
        return ", ".join(map(_in_short, _first(value)))
    return cell(value)


def _first(values: Iterable[Value]) -> Iterator[Value]:
    """As many as could be shown."""
    return itertools.islice(values, _LONGEST_SETTINGS)


def first_rows(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """The first rows and columns of a table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    said = f"{len(rows):,} row" + "s" * (len(rows) != 1)
    if len(rows) > MOST_ROWS:
        said += f", the first {MOST_ROWS} of which are shown here; all are in rows.csv"
    if len(columns) > MOST_COLUMNS:
        said += f"; {len(columns) - MOST_COLUMNS} columns more are in rows.csv"
    columns = columns[:MOST_COLUMNS]
    cells = [[cell(row.get(name)) for name in columns] for row in rows[:MOST_ROWS]]
    return Rows(columns=[shortened(name, _LONGEST) for name in columns], cells=cells, said=said)


def cell(value: Any) -> str:
    """A value as the text of a cell; numbers with four digits, hashes by their first eight."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = re.sub(_HASH, r"\1", value) if isinstance(value, str) else json.dumps(value)
    return shortened(text, _LONGEST)
