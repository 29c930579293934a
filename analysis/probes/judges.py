"""What a disturbance in the middle of a model does to what comes out: errors, distances, or the loss.

Shapes: B utterances, T samples at 16 kHz, F frames, N prediction heads, D features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from lhotse.cut import Cut
from torch import Tensor
from typing_extensions import override

from distill.analysis.layered import LayeredModel
from distill.analysis.models import OurModel
from distill.analysis.recognition import Recogniser
from distill.errors import UserError
from distill.objective import distillation_loss

METRICS = {
    "wer": "word error rate (%)",
    "cer": "character error rate (%)",
    "per": "phoneme error rate (%)",
    "error": "error (%)",
    "distance": "relative distance of the last layer",
    "cosine": "cosine of the last layer",
    "loss": "distillation loss",
}
"""What metrics are called; those in per cent are error rates."""

Score = tuple[float, float]
"""A sum, and what to divide the sum over utterances by."""


@dataclass(frozen=True)
class Speech:
    """A batch."""

    cuts: Sequence[Cut]
    waveforms: Tensor
    """(B, T), padded at the end."""
    lengths: Tensor
    """(B,) int64, valid samples."""


class Judge(ABC):
    """A model and how its outputs are judged."""

    model: LayeredModel
    """Into which the disturbance goes."""
    name: str
    identity: str
    """A hash that changes with the scores."""
    metrics: tuple[str, ...]
    """Keys of `METRICS`."""

    def reference(self, speech: Speech) -> Any:
        """What outputs are compared with, from undisturbed models."""
        return None

    @abstractmethod
    def scores(self, speech: Speech, reference: Any) -> list[dict[str, Score]]:
        """By utterance and metric."""

    def check(self, cuts: Sequence[Cut]) -> None:
        """Refuse speech that it cannot judge."""
        return None


class ErrorJudge(Judge):
    """Error rates of a recogniser."""

    def __init__(self, recogniser: Recogniser):
        self.recogniser, self.model = recogniser, recogniser.model
        self.name, self.identity = recogniser.name, recogniser.identity
        self.metrics = recogniser.metrics

    @override
    def scores(self, speech: Speech, reference: Any) -> list[dict[str, Score]]:
        outputs, frames = self.recogniser.outputs(speech.waveforms, speech.lengths)
        return [found.errors for found in self.recogniser.recognise(outputs, frames, speech.cuts)]

    @override
    def check(self, cuts: Sequence[Cut]) -> None:
        self.recogniser.check(cuts)


class DistanceJudge(Judge):
    """How far the last layer is from that of the undisturbed model.

    `distance` is ||h' - h||_2 / ||h||_2 over all valid frames of an utterance, `cosine` the mean of their
    cos(h', h); both are averaged over utterances.
    """

    metrics = ("distance", "cosine")

    def __init__(self, model: LayeredModel):
        self.model, self.name, self.identity = model, model.name, model.identity

    def _last(self, speech: Speech) -> list[Tensor]:
        last = self.model.layers[-1]
        return self.model.activations(speech.waveforms, speech.lengths, [last]).valid(last)

    @override
    def reference(self, speech: Speech) -> list[Tensor]:
        return self._last(speech)

    @override
    def scores(self, speech: Speech, reference: Any) -> list[dict[str, Score]]:
        found = []
        for clean, other in zip(reference, self._last(speech), strict=True):
            distance = float((other - clean).norm() / clean.norm())
            cosine = float(F.cosine_similarity(other, clean, dim=1).mean())
            found.append({"distance": (distance, 1.0), "cosine": (cosine, 1.0)})
        return found


class LossJudge(Judge):
    """The distillation loss (Eq. 2) of a disturbed student against its teacher on clean speech.

    Args:
        model: a student with its prediction heads.
        teacher: whose layers the heads predict; undisturbed.

    Raises:
        UserError: if the model has no prediction heads, or they are for a teacher of another shape.
    """

    metrics = ("loss",)

    def __init__(self, model: LayeredModel, teacher: LayeredModel):
        if not isinstance(model, OurModel) or model.student is None:
            raise UserError(
                f"{model.name} has no prediction heads, which a distillation loss is of: leave out --teacher "
                "to measure distances"
            )
        self.model, self.student, self.teacher = model, model.student, teacher
        self.name, self.identity = model.name, f"{model.identity} {teacher.identity}"
        self.targets = [str(layer) for layer in self.student.targets]
        if lacking := [layer for layer in self.targets if layer not in teacher.layers]:
            raise UserError(f"{model.name} predicts layer {lacking[0]}, which {teacher.name} does not have")

    @override
    def reference(self, speech: Speech) -> Tensor:
        found = self.teacher.activations(speech.waveforms, speech.lengths, self.targets)
        return torch.stack([found.states[layer] for layer in self.targets], dim=1)  # (B, N, F, D)

    @override
    def scores(self, speech: Speech, reference: Any) -> list[dict[str, Score]]:
        last = self.model.layers[-1]
        needed = [last, *map(str, self.student.sources or ())]
        found = self.model.activations(speech.waveforms, speech.lengths, needed)
        predictions = self.student.predict({int(layer): state for layer, state in found.states.items()})
        if predictions.shape != reference.shape:
            sizes = f"{tuple(predictions.shape[2:])} against {tuple(reference.shape[2:])}"
            raise UserError(
                f"{self.name} is not a student of {self.teacher.name}: frames and features {sizes}"
            )
        frames = found.lengths[last]
        sums = distillation_loss(predictions, reference, frames).per_utterance
        return [{"loss": pair} for pair in zip(sums.tolist(), map(float, frames.tolist()), strict=True)]
