"""Tables of word error rates, before they are formatted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from distill.downstream.table_types import Cell

CAPTION = (
    "Ours: mean over seeds; in round brackets largest minus smallest and the number of seeds, in square ones "
    "the 95 % confidence interval (bootstrap over utterances); -: not measured, or not in the paper. "
    "Paper: Huang et al., SPIRAL: Self-supervised perturbation-invariant representation learning for speech "
    "pre-training, ICLR 2022."
)


@dataclass(frozen=True)
class GridRow:
    """A line of a table."""

    label: str
    """Our recipe; "": nothing of ours."""
    about: tuple[str, ...]
    """What the row is, in the table's columns."""
    cells: tuple[Cell, ...]
    """One for each column of numbers."""

    @property
    def is_measured(self) -> bool:
        """Whether it has a score of ours."""
        return any(cell.mean is not None for cell in self.cells)


@dataclass(frozen=True)
class GridTable:
    """One table."""

    title: str
    """Its number in the paper, and what it is about."""
    about: tuple[str, ...]
    """Columns that say what a row is."""
    columns: tuple[str, ...]
    """Columns of numbers."""
    rows: tuple[GridRow, ...]
    """Lines."""
    notes: tuple[str, ...]
    """Sentences for below the table."""
    published: bool = True
    """Whether the paper has this table."""

    def only_measured(self) -> GridTable:
        """The same with only the rows that have scores of ours."""
        return replace(self, rows=tuple(row for row in self.rows if row.is_measured))
