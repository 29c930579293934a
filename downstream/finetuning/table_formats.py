"""Tables of word error rates as Markdown, CSV and LaTeX. Names are foreign text: none may be markup."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from distill import markdown
from distill.downstream.finetuning.table_types import CAPTION, GridRow, GridTable
from distill.downstream.table_formats import cell_text, tex


def _numbers(row: GridRow, table: GridTable) -> list[str]:
    """Ours and the paper's, alternating; of other tables ours alone."""
    pairs = [(cell.ours() or "-", cell.paper or "-")[: 1 + table.published] for cell in row.cells]
    return [text for pair in pairs for text in pair]


def _heads(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def to_markdown(tables: Sequence[GridTable]) -> str:
    """Each table after its title and before its notes; then the caption."""
    parts = []
    for table in tables:
        if not table.rows:
            continue
        header = [*_heads(table.about), "ours"]
        n_texts = len(header)
        for column in _heads(table.columns):
            header += [column, *["paper"] * table.published]
        rows = [[*row.about, row.label, *_numbers(row, table)] for row in table.rows]
        notes = "\n".join(f"- {markdown.escape(note)}." for note in table.notes)
        text = markdown.table(header, rows, numbers_from=n_texts)
        parts.append(
            "\n\n".join(part for part in (f"### {markdown.escape(table.title)}", text, notes) if part)
        )
    return "\n\n".join([*parts, CAPTION]) + "\n"


def to_csv(tables: Sequence[GridTable]) -> str:
    """All tables in one; for each column ours, spread, number of seeds, bounds, and the paper's."""
    about = list(dict.fromkeys(name for table in tables for name in table.about))
    numbers = list(dict.fromkeys(name for table in tables for name in table.columns))
    suffixes = ("", " spread", " seeds", " low", " high", " paper")
    columns = ["table", "ours", *about, *(name + suffix for name in numbers for suffix in suffixes)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell_text, columns))
    for table in tables:
        for row in table.rows:
            line: dict[str, Any] = {"table": table.title.partition(":")[0], "ours": row.label}
            line |= zip(table.about, row.about, strict=True)
            for name, cell in zip(table.columns, row.cells, strict=True):
                line[f"{name} paper"] = cell.paper
                if cell.mean is not None:
                    line |= {name: f"{cell.mean:.4f}", f"{name} spread": f"{cell.spread:.4f}"}
                    line[f"{name} seeds"] = cell.n_seeds
                if cell.interval is not None:
                    low, high = cell.interval
                    line |= {f"{name} low": f"{low:.4f}", f"{name} high": f"{high:.4f}"}
            writer.writerow(cell_text(line.get(column, "")) for column in columns)
    return text.getvalue()


def to_latex(tables: Sequence[GridTable]) -> str:
    """A `table` for each, to be used with the package booktabs."""
    parts = []
    for table in tables:
        if not table.rows:
            continue
        span = 1 + table.published
        texts = [*_heads(table.about), "ours"]
        heads = [rf"\multicolumn{{{span}}}{{c}}{{{tex(name)}}}" for name in _heads(table.columns)]
        kinds = [kind for _ in table.columns for kind in ("ours", "paper")[:span]]
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{tex(table.title)}. {tex(CAPTION)}}}",
            rf"\begin{{tabular}}{{{'l' * len(texts)}{'r' * len(kinds)}}}",
            r"\toprule",
            " & ".join([*map(tex, texts), *heads]) + r" \\",
            " & ".join([*[""] * len(texts), *kinds]) + r" \\",
            r"\midrule",
        ]
        for row in table.rows:
            lines.append(" & ".join(map(tex, [*row.about, row.label, *_numbers(row, table)])) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
        parts.append("\n".join([*lines, *(f"% {markdown.on_one_line(note)}." for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


FORMATS = {"markdown": to_markdown, "csv": to_csv, "latex": to_latex}
"""By name."""
