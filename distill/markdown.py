"""Markdown tables. Cells are other people's names, too: none may become markup or leave its cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


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
    """Text on one line that stays in its cell and is no HTML."""
    return re.sub(r"[\\|<]", r"\\\g<0>", on_one_line(text))


def on_one_line(text: str) -> str:
    """Text with spaces in place of ends of lines and other characters that do not print."""
    return "".join(c if c.isprintable() else " " for c in text)
