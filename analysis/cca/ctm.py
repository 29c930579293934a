"""NIST's time-marked conversation files: `NAME CHANNEL START DURATION SYMBOL` for each word or phone."""

from __future__ import annotations

import gzip
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from distill.analysis.cca.segments import Interval
from distill.data.bounded import opened
from distill.errors import DataError, listed

_FORM = "NAME CHANNEL START DURATION SYMBOL [CONFIDENCE]"
_NUMBER = re.compile(r"[-+]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][-+]?\d{1,3})?")
MOST_INTERVALS = 200_000
"""Of an utterance: five hours of phones."""
_LONGEST_LINE = 1 << 16  # bytes


def read_ctm(path: Path, wanted: Callable[[str], bool]) -> dict[str, list[Interval]]:
    """The intervals of some utterances; only theirs are held in memory.

    Args:
        path: UTF-8, unpacked where the name ends in `.gz`. Lines that begin with `;;` are comments.
        wanted: whether an utterance is, by its name.

    Returns:
        By name, in the order of the file.

    Raises:
        DataError: it cannot be read, or a line has another form; names file and line.
    """
    found: dict[str, list[Interval]] = defaultdict(list)
    for number, line in _lines(path):
        cells = line.split()
        if not cells or cells[0].startswith(";;"):
            continue
        if len(cells) not in (5, 6) or not all(_NUMBER.fullmatch(cell) for cell in cells[2:4]):
            raise DataError(f"{path}, line {number}: {listed([line])!r} is not of the form {_FORM}")
        if wanted(cells[0]):
            start_s, duration_s = float(cells[2]), float(cells[3])
            found[cells[0]].append(Interval(cells[4], start_s, start_s + duration_s))
            if len(found[cells[0]]) > MOST_INTERVALS:
                raise DataError(
                    f"{path}, line {number}: more than {MOST_INTERVALS:,} intervals of {listed([cells[0]])}"
                )
    return dict(found)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with opened(path) as (_, file):
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if len(line) == _LONGEST_LINE or b"\0" in line:
                    raise DataError(f"{path}, line {number}: not a line of a CTM, {_FORM}")
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError:
        raise DataError(f"{path}, line {number}: not UTF-8; convert the file with iconv") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a complete gzip file ({error})") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None
