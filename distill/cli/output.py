"""What the command line prints. Names in it are other people's: none may control the terminal.

A name of a file, a model or an utterance may hold escape sequences that clear the screen, change the title of
the window or forge the lines of another program. Everything that a command writes to stdout and stderr
therefore goes through `PlainStream`, and every message of the logs through `PlainFormatter`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from typing_extensions import override

_MOVES = re.compile(r"(?:\r|\n|\x1b\[A)*")
"""To the beginning of the line, a line down, a line up: what tqdm begins with to draw a bar again."""
_CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all but tab and line feed
    "\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c"  # change the direction in which text is shown
    "\u2028\u2029\ud800-\udfff\ufeff]"  # other ends of lines; halves of characters, which cannot be encoded
)


def plain(text: str) -> str:
    """Text whose characters all print, with "?" for those that do not; lines stay lines."""
    return _CONTROLS.sub("?", text)


def plain_line(text: str) -> str:
    """`plain` text on one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


class PlainStream:
    """A text stream that writes `plain` text only, in characters that its encoding has.

    Args:
        stream: what is written to; everything but writing is its own.
        bars: whether progress bars are drawn on it, which move to the line that they draw.
    """

    def __init__(self, stream: TextIO, *, bars: bool = False):
        self._stream = stream
        self._bars = bars

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        moves = _MOVES.match(text)[0] if self._bars else ""  # pyright: ignore[reportOptionalSubscript]
        shown = moves + plain(text[len(moves) :])
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write some texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class PlainFormatter(logging.Formatter):
    """A message of a log is one line, whatever names are in it; tracebacks keep theirs."""

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = plain_line(record.message)
        return super().formatMessage(record)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Make stdout and stderr plain within the block."""
    before = sys.stdout, sys.stderr
    sys.stdout = PlainStream(sys.stdout)  # pyright: ignore[reportAttributeAccessIssue]
    sys.stderr = PlainStream(sys.stderr, bars=True)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
