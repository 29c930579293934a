"""The distortion classifier and its loss (Eq. 3 and 4).

Shapes: B utterances, F frames, D features, K = 7 distortion labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.waveforms import masked_mean


class DistortionClassifier(nn.Module):
    """Guesses which distortions the student heard: mean pool over valid frames, then one linear layer.

    (B, F, D) -> logits (B, K).
    """

    def __init__(self, dim: int, n_labels: int):
        super().__init__()
        self.linear = nn.Linear(dim, n_labels)

    def forward(self, z: Tensor, lengths: Tensor, *, frozen: bool = False) -> Tensor:
        """Classify.

        Args:
            z: (B, F, D), the last layer of the student.
            lengths: (B,) valid frames.
            frozen: let gradients through to z, but leave the classifier's own parameters alone (Eq. 4).
        """
        weight, bias = self.linear.weight, self.linear.bias
        if frozen:
            weight, bias = weight.detach(), bias.detach()
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(masked_mean(z.float(), lengths), weight.float(), bias.float())


def classification_loss(
    logits: Tensor, labels: Tensor, *, n_utterances: Tensor | float | None = None
) -> Tensor:
    """L_D: multi-label cross-entropy, a mean over utterances and labels.

    Args:
        logits: (B, K).
        labels: (B, K) multi-hot; an utterance can carry several distortions.
        n_utterances: what to divide the sum over utterances by; default B (see `distillation_loss`).
    """
    if n_utterances is None:
        n_utterances = logits.shape[0]
    per_utterance = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none").mean(1)
    return per_utterance.sum() / n_utterances
