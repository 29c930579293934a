"""Markdown. Names in it are other people's: none may become markup or leave its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MARKUP = re.compile(r"[\\|<`*]|(?<=\])[(:\[]|(?<=!)\[|~(?=~)")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers_from: int | None = None) -> str:
    """A table without an end of line after its last row.

    Args:
        header: plain text by column.
        rows: plain text, as many cells as the header has.
        numbers_from: the column, counted from 0, from which on all are aligned to the right.
    """
    n_texts = len(header) if numbers_from is None else numbers_from
    rule = ["---"] * n_texts + ["---:"] * (len(header) - n_texts)
    lines = [map(escape, header), rule, *(map(escape, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: str) -> str:
    """Text on one line that stays in its cell, and is no HTML, link, picture, code or emphasis by asterisks.

    Underscores stay as they are: within words, where names have them, they mean nothing.
    """
    return _MARKUP.sub(r"\\\g<0>", on_one_line(text))


def paragraph(text: str) -> str:
    """`escape`d text for a line of its own, which makes it no heading, list, quotation or rule either."""
    line = escape(on_one_line(text).strip())
    line = re.sub(r"^\d+(?=[.)])", r"\g<0>\\", line)
    return re.sub(r"^[#>+=_~-]", r"\\\g<0>", line)


def shortened(text: object, longest: int) -> str:
    """A text on one line, cut where it has more letters than `longest`."""
    line = on_one_line(str(text))
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def on_one_line(text: str) -> str:
    """Text with spaces in place of ends of lines and other characters that do not print."""
    return "".join(c if c.isprintable() else " " for c in text)
