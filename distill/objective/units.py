"""Masked units: the student hears masked, distorted speech and predicts the teacher's k-means units.

Shapes: B utterances, F frames, D features, K units.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.hashing import hash_number
from distill.objective.masking import span_mask
from distill.objective.options import UnitsConfig
from distill.waveforms import frame_mask, to_device


def unit_logits(projected: Tensor, embeddings: Tensor, temperature: float) -> Tensor:
    """cos(projected, e_k) / temperature, in float32 (Hsu et al. 2021, Eq. 3). (..., P) -> (..., K)."""
    with torch.autocast(projected.device.type, enabled=False):
        units = F.normalize(embeddings.float(), dim=-1)
        return F.normalize(projected.float(), dim=-1) @ units.T / temperature


class Units(nn.Module):
    """HuBERT's own objective with the student in the place of the next HuBERT (DiceHuBERT, arXiv 2507.02911).

    Args:
        options: settings.
        codebook: (K, D'), centres of the k-means of the teacher's layer.
        dim: D of the student.
        seed: of the masks.
    """

    codebook: Tensor

    def __init__(self, options: UnitsConfig, codebook: Tensor, dim: int, seed: int):
        super().__init__()
        self.options = options
        self.seed = seed
        self.register_buffer("codebook", codebook)  # in checkpoints: a resumed run keeps its units
        self.mask_embedding = nn.Parameter(torch.empty(dim).uniform_())
        self.projection = nn.Linear(dim, options.dim)
        self.embeddings = nn.Parameter(torch.empty(len(codebook), options.dim).uniform_())

    def mask(self, ids: Sequence[str], epoch: int, n_frames: Tensor, width: int) -> Tensor:
        """Which frames are hidden, (B, `width`) bool on the CPU.

        That of an utterance depends on the seed, the epoch and its id, never on the batch it is in.

        Args:
            ids: of the utterances.
            epoch: -1 in validation.
            n_frames: (B,) valid frames, on the CPU.
            width: F.
        """
        mask = torch.zeros(len(ids), width, dtype=torch.bool)
        for row, name in enumerate(ids):
            generator = torch.Generator().manual_seed(hash_number("units", self.seed, epoch, name) >> 1)
            drawn = span_mask(
                n_frames[row : row + 1],
                probability=self.options.probability,
                length=self.options.length,
                generator=generator,
            )
            mask[row, : drawn.shape[1]] = drawn[0]
        return mask

    def labels(self, features: Tensor) -> Tensor:
        """The nearest centre of each frame. (B, F, D') -> (B, F) int64."""
        with torch.autocast(features.device.type, enabled=False):
            centres = self.codebook.float()
            return (centres.square().sum(1) - 2 * features.float() @ centres.T).argmin(2)

    def forward(
        self, z: Tensor, features: Tensor, mask: Tensor, lengths: Tensor, n_masked: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy over the masked frames, and the share of them that is predicted right.

        Args:
            z: (B, F, D), the student's last layer.
            features: (B, F, D') of the teacher's layer.
            mask: (B, F), as the student heard it.
            lengths: (B,) valid frames.
            n_masked: what sums are divided by: masked frames of the global batch, as for `distillation_loss`.
        """
        valid = frame_mask(lengths, z.shape[1])
        hidden = self.projection(z.masked_fill(~valid[:, :, None], 0.0))
        logits = unit_logits(hidden, self.embeddings, self.options.temperature)  # (B, F, K)
        labels = self.labels(features.masked_fill(~valid[:, :, None], 0.0))
        entropy = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        chosen = to_device(mask, z.device) & valid
        right = ((logits.detach().argmax(2) == labels) & chosen).sum()
        return (entropy * chosen).sum() / n_masked, right / n_masked
