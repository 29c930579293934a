"""Groups results into the rows of a table."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from distill.downstream.paper import paper_numbers
from distill.downstream.results import Result
from distill.downstream.table_notes import Notes

_DEFAULT_FEATURES = "last"  # of heads in the paper; labels name only others


@dataclass(frozen=True, order=True)
class Line:
    """Identity of a row of ours; results of different lines are never averaged."""

    name: str
    """Of the model: its row in the paper, its recipe or its checkpoint (`row_name`)."""
    features: str
    """Input of the heads."""
    student: str
    """Hash of the checkpoint where one seed has several, else empty."""

    def label(self) -> str:
        """As the table prints it: features other than the last layer, and the student's hash, in brackets."""
        extra = [self.features] if self.features != _DEFAULT_FEATURES else []
        extra += [f"student {self.student[:8]}"] if self.student else []
        return self.name + (f" ({', '.join(extra)})" if extra else "")


def row_name(result: Result) -> str:
    """A result's row: the user's choice, else the paper's name of its recipe, else the recipe or model.

    Example: the recipe "s4_prime" is the paper's row "S4'".
    """
    name = result.row or result.recipe
    return result.model if name is None else labelled(name)


def labelled(name: str) -> str:
    """The paper's name of a recipe ("s4_prime": "S4'"), or the name itself."""
    label = name.upper().replace("_PRIME", "'")
    return label if label in _paper_rows() else name


@functools.cache
def _paper_rows() -> tuple[str, ...]:
    return tuple(paper_numbers("ks"))


def group_lines(results: Iterable[Result], notes: Notes) -> dict[Line, list[Result]]:
    """Results of one table by row.

    Seeds of one recipe are one row, even if each has a student of its own. Where one seed has several
    students, it is not known which belong together: each student gets a row.
    """
    by_recipe: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        by_recipe[row_name(result), result.features].append(result)
    lines: dict[Line, list[Result]] = defaultdict(list)
    for (name, features), members in by_recipe.items():
        students: dict[int, set[str]] = defaultdict(set)
        for result in members:
            students[result.seed].add(result.checkpoint_hash)
        count = len(set().union(*students.values()))
        shared = [seed for seed, hashes in sorted(students.items()) if len(hashes) > 1]
        for result in members:
            line = Line(name, features, result.checkpoint_hash if shared else "")
            lines[line].append(result)
        together = Line(name, features, "").label()
        if shared:
            notes.add(
                f"{count} students have a row each, as several have results of seed {shared[0]}; for one row "
                "with their spread, evaluate each with its own --seed and --out and name only these folders",
                together,
            )
        elif count > 1:
            notes.add(f"every seed is another student ({count} in all)", together)
    return dict(lines)
