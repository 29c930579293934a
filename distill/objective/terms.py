"""The terms of a recipe's objective beside Eq. 2: which are on, what they need, and their sum.

Shapes: B utterances, T samples at 16 kHz, F frames, N prediction heads, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from distill.errors import ConfigError
from distill.objective.correlation import correlation_loss
from distill.objective.enhancement import Enhancement
from distill.objective.options import ObjectiveConfig
from distill.objective.regression import distillation_loss
from distill.objective.relations import matched_layers, relation_loss
from distill.objective.units import Units


@dataclass
class Seen:
    """A micro-batch, and what teacher and student made of it."""

    student: Any
    """A `StudentOutput`."""
    targets: Tensor
    """(B, N, F, D) of the teacher, what the heads predict."""
    features: Mapping[int, Tensor] | list[Tensor]
    """Of the teacher, (B, F, D) by layer; 0 is its transformer's input."""
    batch: Any
    """The `Batch`: clean speech (B, T) and its lengths."""
    heard: Tensor
    """(B, T), what the student heard."""
    pitched: Tensor
    """(B,) bool, whether its pitch is another one than that of the speech."""
    asked: dict[str, Any] = field(default_factory=dict)
    """The keywords of `Terms.asks`."""


class Terms(nn.Module):
    """What is added to the regression of Eq. 2.

    Its parameters, if any, are trained with the student and belong to no model that is released.

    Args:
        options: weights and settings.
        cosine_weight: gamma of Eq. 2, for the transformer's input.
        student: configuration of its encoder.
        teacher: of the teacher.
        codebook: (K, D), of `options.units`.
        seed: of masks.

    Raises:
        ValueError: a term that these models cannot have.
    """

    def __init__(
        self,
        options: ObjectiveConfig,
        cosine_weight: float,
        student: Any,
        teacher: Any,
        *,
        codebook: Tensor | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.options = options
        self.weights = options.terms_on()
        self.cosine_weight = cosine_weight
        self.config = student
        self.layers: set[int] = set()
        """Of the teacher, beside those that the student predicts; 0 is its transformer's input."""
        self.matched: list[int] = []
        """The teacher's layer for each of the student's hidden states."""
        if "input" in self.weights:
            if student.dim != teacher.dim:
                raise ValueError(
                    f"objective.input compares transformer inputs: the student's is {student.dim} wide, the "
                    f"teacher's {teacher.dim}"
                )
            self.layers.add(0)
        if "relations" in self.weights:
            self.matched = matched_layers(options.relations.layers, student.layers, teacher.layers)
            self.layers |= set(self.matched)
        if "units" in self.weights:
            check_units(options.units.layer, codebook, student, teacher)
            assert codebook is not None
            self.units = Units(options.units, codebook, student.dim, seed)
            self.layers.add(options.units.layer)
        if "enhancement" in self.weights:
            self.enhancement = Enhancement(options.enhancement, student)

    def check(self, n_frames: int) -> None:
        """Refuse a global batch of so few frames that a term means nothing.

        Raises:
            ConfigError: naming the term.
        """
        if "correlation" in self.weights and n_frames < 2:
            raise ConfigError(
                "objective.correlation: a batch of one frame has no correlations: raise data.batch_size or "
                "data.min_samples"
            )

    def asks(self, batch: Any) -> dict[str, Any]:
        """Keywords for `Student.forward`, by which it makes what the terms need of a `Batch`."""
        asked: dict[str, Any] = {}
        if "units" in self.weights:
            asked["mask"] = self._mask(batch).to(batch.waveforms.device)
            asked["mask_embedding"] = self.units.mask_embedding
        if "enhancement" in self.weights and self.options.enhancement.place == "cnn":
            asked["return_cnn"] = True
        return asked

    def n_masked(self, batch: Any) -> int:
        """Frames of a batch that the student does not hear."""
        return int(self._mask(batch).sum()) if "units" in self.weights else 0

    def _mask(self, batch: Any) -> Tensor:
        """(B, F) bool on the CPU, the same in every validation."""
        frames = self.config.frames
        return self.units.mask(
            *(batch.ids, batch.position[0] if self.training else -1),
            *(frames(batch.lengths), frames(batch.waveforms.shape[1])),
        )

    @override
    def forward(
        self,
        regression: Tensor,
        seen: Seen,
        n_frames: Tensor | float,
        n_masked: Tensor | float = 1.0,
        processes: int = 1,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its parts for the log.

        Args:
            regression: Eq. 2.
            seen: of these utterances.
            n_frames: what sums over frames are divided by (see `distillation_loss`).
            n_masked: the same of sums over masked frames.
            processes: over how many the batch is spread; 1 also where this batch is to be seen alone.
        """
        total = self.options.regression * regression
        parts: dict[str, Tensor] = {}
        student, lengths = seen.student, seen.student.lengths
        if "input" in self.weights:
            parts["input"] = distillation_loss(
                *(student.hidden_states[0][:, None], seen.features[0][:, None], lengths),
                cosine_weight=self.cosine_weight,
                n_frames=n_frames,
            ).total
        if "correlation" in self.weights:
            settings = self.options.correlation
            found = correlation_loss(
                *(student.predictions, seen.targets, lengths),
                off_diagonal=settings.off_diagonal,
                self_correlation=settings.self_correlation,
                processes=processes,
            )
            parts["correlation"] = found.total
            parts |= {"correlation_cross": found.cross, "correlation_self": found.own}
        if "relations" in self.weights:
            teacher = [seen.features[layer] for layer in self.matched]
            own = [*student.hidden_states[:-1], student.z]
            related = relation_loss(own, teacher, lengths, n_frames=n_frames)
            parts["relations"] = related.total
            parts |= {"relations_within": related.within, "relations_between": related.between}
        if "units" in self.weights:
            layer = seen.features[self.options.units.layer]
            parts["units"], parts["units_accuracy"] = self.units(
                *(student.z, layer, seen.asked["mask"], lengths, n_masked)
            )
        if "enhancement" in self.weights:
            features = student.z if student.cnn is None else student.cnn
            waves = seen.heard, seen.batch.waveforms, seen.batch.lengths
            parts["enhancement"] = self.enhancement(features, *waves, seen.pitched, n_frames)
        for name, weight in self.weights.items():
            total = total + weight * parts[name]
        if parts:
            parts["objective"] = total
        return total, parts


def check_units(layer: int, codebook: Tensor | None, student: Any, teacher: Any) -> None:
    """Refuse units that these models cannot have.

    Raises:
        ValueError: naming the setting.
    """
    if student.family != "hubert":
        raise ValueError("objective.units masks the input of a HuBERT's transformer: a SPIRAL has another")
    if layer > teacher.layers:
        raise ValueError(f"objective.units.layer is {layer}, the teacher has layers 1 to {teacher.layers}")
    if codebook is None:
        raise ValueError("objective.units needs a codebook")
    if codebook.shape[1] != teacher.dim:
        raise ValueError(
            f"objective.units.codebook has centres of {codebook.shape[1]} features, the teacher's layers "
            f"have {teacher.dim}"
        )
