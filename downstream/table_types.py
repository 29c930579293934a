"""Tables, rows and cells, before they are formatted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

CAPTION = (
    "Ours: mean over seeds; in round brackets largest minus smallest and the number of seeds, in square ones "
    "the 95 % confidence interval (bootstrap over utterances); empty: not measured. "
    "Paper, and its da. (domain-adapted teacher) and para. (parameters): "
    "Huang et al., Improving generalizability of distilled self-supervised speech processing models "
    "under distorted settings, Tables 1 and 2."
)


DIFFERENCES_CAPTION = (
    "First row: mean over seeds; in round brackets largest minus smallest and the number of seeds, in square "
    "ones the 95 % confidence interval (bootstrap over utterances). Other rows: their means minus those of "
    "the first, in percentage points; in round brackets the same of the differences at each seed, in square "
    "ones the 95 % confidence interval over utterances, which both rows share, and seeds. * excludes 0: of "
    "20 differences without any effect, one does by chance."
)


@dataclass(frozen=True)
class Cell:
    """Our score in one row under one condition, and the paper's."""

    mean: float | None
    """In per cent over seeds, each the mean of its folds; None: not measured."""
    spread: float
    """Largest minus smallest score of a seed, in per cent."""
    n_seeds: int
    """Number of seeds."""
    paper: str
    """The paper's number as printed; empty where it has none."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of the mean, in per cent; None without outcomes of utterances."""

    def ours(self) -> str:
        """As text: "93.21 [92.30, 94.07]", of several seeds "93.21 (0.40, n=3) [...]"; else empty."""
        if self.mean is None:
            return ""
        seeds = f" ({self.spread:.2f}, n={self.n_seeds})" if self.n_seeds > 1 else ""
        bounds = f" [{self.interval[0]:.2f}, {self.interval[1]:.2f}]" if self.interval else ""
        return f"{self.mean:.2f}{seeds}{bounds}"


@dataclass(frozen=True)
class DifferenceCell(Cell):
    """Our score in one row minus that of another row, in percentage points.

    `spread` is of the differences at each seed, NaN where the two rows have other seeds; `interval` covers
    the choice of utterances and of seeds.
    """

    @property
    def is_marked(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def ours(self) -> str:
        """As text: "+1.20* (0.40, n=3) [+0.31, +2.10]"; the star says that the interval excludes 0."""
        if self.mean is None:
            return ""
        star = "*" if self.is_marked else ""
        spread = "" if math.isnan(self.spread) else f"{self.spread:.2f}, "
        seeds = f" ({spread}n={self.n_seeds})" if self.n_seeds > 1 else ""
        bounds = f" [{self.interval[0]:+.2f}, {self.interval[1]:+.2f}]" if self.interval else ""
        return f"{self.mean:+.2f}{star}{seeds}{bounds}"


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    label: str
    """Name in the paper (S4'), else of the recipe or model; with features and student if needed."""
    model: str
    """The paper's description, else the checkpoint's name."""
    adapted: str
    """Whether the teacher was domain-adapted: yes, no, or empty where unknown."""
    parameters: str
    """As in the paper; empty where unknown."""
    cells: tuple[Cell, ...]
    """One for each condition of the table."""


@dataclass(frozen=True)
class Table:
    """One task."""

    title: str
    """Number in the paper, task and metric."""
    task: str
    """ks, ic, ..."""
    metric: str
    """A key of `METRICS`."""
    lm: bool
    """With a language model."""
    published: bool
    """Whether the paper has this table."""
    conditions: tuple[str, ...]
    """Columns."""
    rows: tuple[Row, ...]
    """Lines."""
    notes: tuple[str, ...]
    """Sentences for below the table."""
    against: str = ""
    """Label of the row to which the cells of all others are differences; empty: all are scores."""


def is_measured(row: Row) -> bool:
    """Whether a row has a score of ours."""
    return any(cell.mean is not None for cell in row.cells)


def only_measured(tables: Iterable[Table]) -> list[Table]:
    """The tables and rows that have scores of ours."""
    kept = [replace(table, rows=tuple(filter(is_measured, table.rows))) for table in tables]
    return [table for table in kept if table.rows]
