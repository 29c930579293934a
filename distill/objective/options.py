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
class RelationsConfig:
    """Which frames resemble each other (STaR, Jang et al. 2024, arXiv 2312.09040)."""

    weight: float = 0.0
    """Of the whole term."""
    layers: tuple[int, ...] = ()
    """The teacher's layer for each of the student's, 1 is the first; default: evenly spaced, to the last."""

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")


@dataclass(kw_only=True)
class UnitsConfig:
    """Masked prediction of the teacher's k-means units (DiceHuBERT, Chi et al. 2025, arXiv 2507.02911)."""

    weight: float = 0.0
    """Of the cross-entropy over masked frames."""
    codebook: str | None = None
    """Cluster centres: a folder of `distill adapt targets`, .npy, or fairseq's joblib file."""
    layer: int = 6
    """Of the teacher, that the codebook is of; 1 is the first."""
    probability: float = 0.8
    """Masked share of the frames, if spans did not overlap."""
    length: int = 10
    """Frames of a span."""
    dim: int = 256
    """Width in which frames and units are compared."""
    temperature: float = 0.1
    """The cosine is divided by it."""

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")
        if not 0.0 < self.probability <= 1.0 or self.length < 1:
            raise ValueError("probability must be in (0, 1] and length at least 1")
        if self.layer < 1 or self.dim < 1:
            raise ValueError("layer and dim must be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if self.weight and not self.codebook:
            raise ValueError("codebook must name cluster centres of the teacher (`distill adapt targets`)")


@dataclass(kw_only=True)
class EnhancementConfig:
    """A head that cleans what the student hears (RobustDistiller, Guimarães et al. 2023, 2302.09437)."""

    weight: float = 0.0
    """Of the relative error of magnitudes; the authors' code has 2, of absolute ones."""
    place: str = "last"
    """What the head is put on: the student's "last" layer (the paper), or its "cnn" (the code)."""
    dim: int = 256
    """Width of a direction of its LSTM."""
    layers: int = 3
    """Of the LSTM."""

    def __post_init__(self) -> None:
        check_not_negative(self, "weight")
        if self.place not in ("last", "cnn"):
            raise ValueError(f"place must be last or cnn, not {self.place!r}")
        if self.dim < 1 or self.layers < 1:
            raise ValueError("dim and layers must be at least 1")


@dataclass(kw_only=True)
class ObjectiveConfig:
    """What the student minimises: weights of Eq. 2 and of further terms."""

    regression: float = 1.0
    """Of Eq. 2; 0 only if something else is on."""
    input: float = 0.0
    """Of Eq. 2 between the inputs of the teacher's and the student's transformers: a start for front ends."""
    correlation: CorrelationConfig = field(default_factory=CorrelationConfig)
    """Redundancy reduction."""
    relations: RelationsConfig = field(default_factory=RelationsConfig)
    """Temporal Gram matrices."""
    units: UnitsConfig = field(default_factory=UnitsConfig)
    """Masked units."""
    enhancement: EnhancementConfig = field(default_factory=EnhancementConfig)
    """A spectral mask."""

    def __post_init__(self) -> None:
        check_not_negative(self, "regression", "input")
        if not self.regression and not self.terms_on():
            raise ValueError("regression is 0 and nothing else is on: the student would learn nothing")
        before_layers = {"input"} | ({"enhancement"} if self.enhancement.place == "cnn" else set())
        if not self.regression and self.terms_on().keys() <= before_layers:
            raise ValueError(
                "regression is 0 and only what comes before the transformer is compared ("
                f"{', '.join(self.terms_on())}): its layers would learn nothing"
            )

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
