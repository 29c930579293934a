"""Options of what a student learns from beside Eq. 2. Every weight is 0 unless a recipe says otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from distill.errors import check_finite


def check_not_negative(options: Any, *names: str) -> None:
    """Refuse NaN, infinities and negative numbers.

    Raises:
        ValueError: naming the field.
    """
    check_finite(options)
    for name in names:
        if getattr(options, name) < 0:
            raise ValueError(f"{name} must not be negative, not {getattr(options, name)}")


@dataclass(kw_only=True)
class CorrelationConfig:
    """Correlations over the frames of the global batch (Ritter-Gutierrez et al. 2023, arXiv 2312.12153)."""

    weight: float = 0.0
    """Of the whole term."""
    off_diagonal: float = 0.005
    """Of what teacher and student have in common off the diagonal, next to the diagonal (Barlow Twins')."""
    self_correlation: float = 0.005
    """Of the student's correlations with itself off the diagonal."""

    def __post_init__(self) -> None:
        check_not_negative(self, "weight", "off_diagonal", "self_correlation")


@dataclass(kw_only=True)
class ObjectiveConfig:
    """What the student minimises: weights of Eq. 2 and of further terms."""

    regression: float = 1.0
    """Of Eq. 2; 0 only if something else is on."""
    input: float = 0.0
    """Of Eq. 2 between the inputs of the teacher's and the student's transformers: a start for front ends."""
    correlation: CorrelationConfig = field(default_factory=CorrelationConfig)
    """Redundancy reduction."""

    def __post_init__(self) -> None:
        check_not_negative(self, "regression", "input")
        if not self.regression and not self.terms_on():
            raise ValueError("regression is 0 and nothing else is on: the student would learn nothing")

    def terms_on(self) -> dict[str, float]:
        """The weights of the terms beside Eq. 2 that are on, by name."""
        weights = {"input": self.input}
        weights |= {name: part.weight for name, part in vars(self).items() if hasattr(part, "weight")}
        return {name: weight for name, weight in weights.items() if weight}

    def check_accumulate(self, accumulate: int) -> None:
        """Refuse micro-batches where a term needs the whole batch at once.

        Raises:
            ValueError: naming both.
        """
        if self.correlation.weight and accumulate > 1:
            raise ValueError(
                "objective.correlation needs the whole batch at once: set optim.accumulate=1, not "
                f"{accumulate}"
            )
