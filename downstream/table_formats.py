"""Tables as Markdown, CSV and LaTeX. Names in them are foreign text: none may become markup."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from typing import Any

from distill import markdown
from distill.downstream.paper import ABOUT, CONDITIONS
from distill.downstream.table_types import CAPTION, DIFFERENCES_CAPTION, Row, Table


def _spans(table: Table) -> list[int]:
    """For each condition its columns: ours, and the paper's where it has the condition."""
    return [1 + (table.published and condition in CONDITIONS) for condition in table.conditions]


def _numbers(row: Row, spans: Sequence[int]) -> list[str]:
    """The columns after those about a row."""
    pairs = zip(row.cells, spans, strict=True)
    return [text for cell, span in pairs for text in (cell.ours(), cell.paper)[:span]]


def to_markdown(tables: Sequence[Table]) -> str:
    """Each table after its title and before its notes; then the caption of scores or of differences."""
    parts = []
    for table in tables:
        about = ["", "model", "da.", "para."]
        columns = list(about)
        spans = _spans(table)
        for condition, span in zip(table.conditions, spans, strict=True):
            columns += [condition, "paper"][:span]
        rows = [
            [row.label, row.model, row.adapted, row.parameters, *_numbers(row, spans)] for row in table.rows
        ]
        text = markdown.table(columns, rows, numbers_from=len(about))
        title, notes = markdown.escape(table.title), [markdown.escape(note) for note in table.notes]
        listed = "\n".join(f"- {note}." for note in notes)
        parts.append("\n\n".join(part for part in (f"### {title}", text, listed) if part))
    return "\n\n".join([*parts, *(dict.fromkeys(map(_caption, tables)) or [CAPTION])]) + "\n"


def _caption(table: Table) -> str:
    return DIFFERENCES_CAPTION if table.against else CAPTION


def to_csv(tables: Sequence[Table]) -> str:
    """All tables in one; for each condition ours, spread, number of seeds, bounds, and the paper's.

    Where a row is named in the column `against`, the others' scores are differences to it.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    conditions = list(dict.fromkeys([*CONDITIONS, *(c for table in tables for c in table.conditions)]))
    columns = ["task", "lm", "metric", "row", "model", *ABOUT]
    columns += ["against"] * any(table.against for table in tables)
    columns += [
        c + suffix for c in conditions for suffix in ("", " spread", " seeds", " low", " high", " paper")
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell_text, columns))
    for table in tables:
        for row in table.rows:
            about = (table.task, "yes" if table.lm else "no", table.metric, row.label, row.model)
            line: dict[str, Any] = dict(zip(columns, (*about, row.adapted, row.parameters), strict=False))
            line["against"] = "" if row.label == table.against else table.against
            for condition, cell in zip(table.conditions, row.cells, strict=True):
                line[f"{condition} paper"] = cell.paper
                if cell.mean is not None:
                    line |= {condition: f"{cell.mean:.4f}", f"{condition} spread": _number(cell.spread)}
                    line[f"{condition} seeds"] = cell.n_seeds
                if cell.interval is not None:
                    low, high = cell.interval
                    line |= {f"{condition} low": f"{low:.4f}", f"{condition} high": f"{high:.4f}"}
            writer.writerow(cell_text(line.get(column, "")) for column in columns)
    return text.getvalue()


def _number(value: float) -> str:
    """Four digits; empty for a value that does not exist."""
    return "" if math.isnan(value) else f"{value:.4f}"


def to_latex(tables: Sequence[Table]) -> str:
    """A `table` for each, to be used with the package booktabs."""
    parts = []
    for table in tables:
        spans = _spans(table)
        pairs = zip(table.conditions, spans, strict=True)
        heads = [rf"\multicolumn{{{span}}}{{c}}{{{tex(c)}}}" for c, span in pairs]
        kinds = [kind for span in spans for kind in ("ours", "paper")[:span]]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(table.title)}. {tex(_caption(table))}}}",
            rf"\begin{{tabular}}{{llll{'r' * len(kinds)}}}",
            r"\toprule",
            " & ".join(["", "model", "da.", "para.", *heads]) + r" \\",
            " & ".join(["", "", "", "", *kinds]) + r" \\",
            r"\midrule",
        ]
        for row in table.rows:
            texts = [row.label, row.model, row.adapted, row.parameters, *_numbers(row, spans)]
            lines.append(" & ".join(map(tex, texts)) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        parts.append("\n".join([*lines, *(f"% {markdown.on_one_line(note)}." for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


# Characters that are LaTeX commands, or print as others in its old font encoding, OT1.
_TEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedblright{}",
    "`": r"\`{}",
    **{c: f"{{{c}}}" for c in "[]*"},  # these would be the argument of the end of the line above
}


def tex(text: str) -> str:
    """Text on one line, escaped so that it prints unchanged."""
    escaped = "".join(_TEX.get(c, c) for c in markdown.on_one_line(text))
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens would be a dash


def cell_text(value: Any) -> str:
    """Text on one line that is no formula; numbers stay unchanged, None is empty."""
    text = "" if value is None else markdown.on_one_line(str(value))
    if not text.startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")) or text == "-":
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text
