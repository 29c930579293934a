"""Praat's TextGrid files in their two text forms.

Both forms hold the same numbers, quoted texts and flags in the same order; the long form puts words between
them for people. Praat's own reader passes over the words, and so does this one.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from distill.analysis.cca.segments import Interval
from distill.data.files import regular_file
from distill.errors import DataError, listed

MOST_BYTES = 8 << 20
"""An hour of speech with words and phones takes about 5 MB; intervals alone take seconds to read."""

_TOKENS = re.compile(
    r'(?P<text>"(?:[^"]|"")*+")'
    r"|(?P<flag><[a-z]{1,20}>)"
    r"|(?P<number>(?<!\S)[-+]?(?:\d{1,40}+\.?\d{0,40}+|\.\d{1,40}+)(?:[eE][-+]?\d{1,5}+)?(?!\S))"
    r"|![^\n]*"
    r'|(?P<open>")'
    r'|[^\s"<!]+|[<]'
)
"""What a reader stops at, comments, a quote that is never closed, and the words in between.

Possessive repeats (`++`) keep the search linear whatever the file holds.
"""
_BINARY = b"ooBinaryFile"


class Tier(NamedTuple):
    """One layer of a TextGrid."""

    name: str
    intervals: list[Interval] | None
    """In the order of the file, those with an empty label, too; None for a tier of points."""


def read_textgrid(path: Path) -> list[Tier]:
    """All tiers of a file.

    Args:
        path: UTF-8, or UTF-16 with a byte order mark.

    Raises:
        DataError: it is binary, of another encoding or another kind, or cut off; names file and line.
    """
    text = _decoded(path)
    return _Reader(path, text).tiers()


def _decoded(path: Path) -> str:
    try:
        with regular_file(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise DataError(f"{path} has more than {MOST_BYTES >> 20} MiB, too many for a TextGrid")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None
    if content.startswith(_BINARY):
        raise DataError(f"{path} is a binary TextGrid; save it as a text file in Praat")
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    wrong = -1
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
        wrong = text.find("\0")
        line = text.count("\n", 0, wrong) + 1
    except UnicodeDecodeError as error:
        text, wrong, line = "", error.start, content.count(b"\n", 0, error.start) + 1
    if wrong >= 0:
        encoding = "UTF-16" if wide else "UTF-8"
        raise DataError(f"{path} is not {encoding} (line {line}); let Praat save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")  # Praat of old Macs ends lines with the latter


class _Reader:
    """Goes through a text once. Counts in it are checked, never trusted: nothing is allocated by them."""

    def __init__(self, path: Path, text: str):
        self.path, self.text = path, text
        self.position = 0
        self.tokens = self._tokens()

    def _tokens(self) -> Iterator[tuple[str, str]]:
        """Kind and value of all that counts."""
        for found in _TOKENS.finditer(self.text):
            kind = found.lastgroup
            if kind:
                self.position = found.start()
                if kind == "open":
                    raise self._error('a quotation mark (") that is never closed')
                yield kind, found.group()

    def tiers(self) -> list[Tier]:
        """Everything after the header."""
        header = self._next("text", "the kind of file"), self._next("text", "the class of object")
        if not header[0].startswith("ooTextFile") or header[1] != "TextGrid":
            raise DataError(f"{self.path} is not a TextGrid (it says {listed(header)})")
        self._range()
        if self._next("flag", "<exists>") != "<exists>":
            return []
        return [self._tier() for _ in range(self._count("tiers"))]

    def _tier(self) -> Tier:
        kind = self._next("text", "the class of a tier")
        if kind not in ("IntervalTier", "TextTier"):
            raise self._error(f"a tier of the unknown class {listed([kind])}")
        name = self._next("text", "the name of a tier")
        self._range()
        if kind == "IntervalTier":
            return Tier(name, [self._interval() for _ in range(self._count("intervals"))])
        for _ in range(self._count("points")):
            self._time()
            self._next("text", "the mark of a point")
        return Tier(name, None)

    def _interval(self) -> Interval:
        start_s, end_s = self._range()
        return Interval(self._next("text", "the text of an interval"), start_s, end_s)

    def _range(self) -> tuple[float, float]:
        return self._time(), self._time()

    def _time(self) -> float:
        seconds = float(self._next("number", "a time"))
        if not math.isfinite(seconds):
            raise self._error("a time that is not finite")
        return seconds

    def _count(self, what: str) -> int:
        number = self._next("number", f"a number of {what}")
        if not number.isdecimal() or len(number) > 12:
            raise self._error(f"{listed([number])} where a number of {what} should be")
        return int(number)

    def _next(self, kind: str, what: str) -> str:
        found, value = next(self.tokens, ("", ""))
        if not found:
            raise DataError(f"{self.path} is cut off: it ends before {what}")
        if found != kind:
            raise self._error(f"{listed([value])} where {what} should be")
        return value[1:-1].replace('""', '"') if kind == "text" else value

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self.path}, line {self.text.count(chr(10), 0, self.position) + 1}: {problem}")
