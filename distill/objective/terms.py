"""The terms of a recipe's objective beside Eq. 2: which are on, what they need, and their sum.

Shapes: B utterances, F frames, N prediction heads, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from distill.errors import ConfigError
from distill.objective.correlation import correlation_loss
from distill.objective.options import ObjectiveConfig
from distill.objective.regression import distillation_loss


class Terms(nn.Module):
    """What is added to the regression of Eq. 2.

    Its parameters, if any, are trained with the student and belong to no model that is released.

    Args:
        options: weights and settings.
        cosine_weight: gamma of Eq. 2, for the transformer's input.
        student: configuration of its encoder.
        teacher: of the teacher.

    Raises:
        ValueError: a term that these models cannot have.
    """

    def __init__(self, options: ObjectiveConfig, cosine_weight: float, student: Any, teacher: Any):
        super().__init__()
        self.options = options
        self.weights = options.terms_on()
        self.cosine_weight = cosine_weight
        self.layers: set[int] = set()
        """Of the teacher, beside those that the student predicts; 0 is its transformer's input."""
        if "input" in self.weights:
            if student.dim != teacher.dim:
                raise ValueError(
                    f"objective.input compares transformer inputs: the student's is {student.dim} wide, the "
                    f"teacher's {teacher.dim}"
                )
            self.layers.add(0)

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
        return {}

    @override
    def forward(
        self,
        regression: Tensor,
        student: Any,
        targets: Tensor,
        features: Mapping[int, Tensor] | list[Tensor],
        *,
        n_frames: Tensor | float,
        processes: int = 1,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and its parts for the log.

        Args:
            regression: Eq. 2.
            student: what it has returned, a `StudentOutput`.
            targets: (B, N, F, D) of the teacher.
            features: of the teacher by layer, (B, F, D) each.
            n_frames: what sums over frames are divided by (see `distillation_loss`).
            processes: over how many the batch is spread; 1 also where this batch is to be seen alone.
        """
        total = self.options.regression * regression
        parts: dict[str, Tensor] = {}
        if "input" in self.weights:
            loss = distillation_loss(
                *(student.hidden_states[0][:, None], features[0][:, None], student.lengths),
                cosine_weight=self.cosine_weight,
                n_frames=n_frames,
            )
            parts["input"] = loss.total
        if "correlation" in self.weights:
            settings = self.options.correlation
            found = correlation_loss(
                *(student.predictions, targets, student.lengths),
                off_diagonal=settings.off_diagonal,
                self_correlation=settings.self_correlation,
                processes=processes,
            )
            parts["correlation"] = found.total
            parts |= {"correlation_cross": found.cross, "correlation_self": found.own}
        for name, weight in self.weights.items():
            total = total + weight * parts[name]
        if parts:
            parts["objective"] = total
        return total, parts
