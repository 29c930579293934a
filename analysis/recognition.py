"""What recognisers have in common: errors of each utterance by metric, and a loss to attack them with.

Shapes: B utterances, T samples at 16 kHz, F frames, V outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lhotse.cut import Cut
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from distill.analysis.layered import LayeredModel


@dataclass(frozen=True)
class Recognised:
    """What a model made of an utterance."""

    errors: dict[str, tuple[float, float]]
    """By metric: errors, and units that could be wrong."""
    truth: str
    """The words, phonemes (by spaces) or classes (by `|`) that are right."""
    prediction: str
    """The model's, in the same form."""


class Recogniser(ABC):
    """A model with a head on top."""

    name: str
    """For people."""
    model: LayeredModel
    """The one below; what is injected into its layers reaches the outputs."""
    metrics: tuple[str, ...]
    """"wer" and "cer" of recognisers of words, "per" of those of phonemes, "error" of classifiers."""
    identity: str
    """A hash that changes with the outputs."""

    @abstractmethod
    def outputs(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What the head puts out; differentiable with respect to the waveforms.

        Args:
            waveforms: (B, T), padded at the end.
            lengths: (B,) int64, valid samples.

        Returns:
            (B, F, V) log-probabilities of symbols, or (B, V) logits of classes; (B,) valid frames.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, frames: Tensor, cuts: Sequence[Cut]) -> Tensor:
        """The training loss of each utterance, (B,).

        CTC, divided by the length of the transcript; of classifiers, cross-entropy.
        """

    @abstractmethod
    def recognise(self, outputs: Tensor, frames: Tensor, cuts: Sequence[Cut]) -> list[Recognised]:
        """Decode greedily and count errors."""

    @abstractmethod
    def check(self, cuts: Sequence[Cut]) -> None:
        """Refuse speech whose truth is missing or cannot be put out.

        Raises:
            DataError: naming an utterance and what is wrong with it.
        """


def ctc_losses(log_probs: Tensor, frames: Tensor, targets: Sequence[Sequence[int]], *, blank: int) -> Tensor:
    """CTC of each utterance, divided by the length of its transcript.

    Args:
        log_probs: (B, F, V).
        frames: (B,) valid frames.
        targets: symbols of each utterance.
        blank: its number.

    Returns:
        (B,); 0 where there are too few frames for the transcript.
    """
    sizes = torch.tensor([len(target) for target in targets], device=log_probs.device)
    flat = torch.tensor([symbol for target in targets for symbol in target], device=log_probs.device)
    losses = F.ctc_loss(
        log_probs.transpose(0, 1), flat, frames, sizes, blank=blank, reduction="none", zero_infinity=True
    )
    return losses / sizes


def character_errors(truth: str, prediction: str) -> tuple[float, float]:
    """Edit distance in characters, spaces between words included, and the length of the truth."""
    return float(Levenshtein.distance(prediction, truth)), float(len(truth))
