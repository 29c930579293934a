"""The student: the first layers of its teacher's encoder, and heads that predict deeper ones.

Shapes: B utterances, T samples at 16 kHz, F frames, N prediction heads, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distill.encoder import Encoder, EncoderConfig
from distill.hubert import HubertConfig, HubertEncoder
from distill.spiral.encoder import SpiralConfig, SpiralEncoder

FAMILIES: dict[str, tuple[type[Any], type[Encoder]]] = {
    "hubert": (HubertConfig, HubertEncoder),
    "spiral": (SpiralConfig, SpiralEncoder),
}
"""By `EncoderConfig.family`: classes of configuration and encoder."""


def encoder_of(config: EncoderConfig) -> Encoder:
    """An encoder with random weights."""
    return FAMILIES[config.family][1](config)


def config_of(description: Mapping[str, Any]) -> EncoderConfig:
    """The configuration that `EncoderConfig.to_dict` described; descriptions of HuBERT name no family.

    Raises:
        KeyError: for an unknown family.
        TypeError: for unknown fields.
        ValueError: for values that no model can have.
    """
    fields = dict(description)
    return FAMILIES[fields.pop("family", "hubert")][0](**fields)


@dataclass
class StudentOutput:
    """What `Student` returns."""

    predictions: Tensor
    """(B, N, F, D), the regressed teacher layers, in the order of `Student.targets`."""
    hidden_states: list[Tensor]
    """[0] the transformer's input, [i] the output of layer i, each (B, F, D)."""
    z: Tensor
    """(B, F, D), the last layer, after the final layer norm of pre-norm models: the input of the heads and
    of downstream tasks (Eq. 1)."""
    lengths: Tensor
    """(B,) int64, valid frames."""
    cnn: Tensor | None = None
    """(B, F, C), the output of the CNN, if asked for."""


class PredictionHeads(nn.Module):
    """The p_i of Eq. 1: one shared linear expansion, GELU, then one linear per target.

    (B, F, D) -> (B, N, F, D_target). The expansion gives each target D_target features of its own, as in
    DistilHuBERT (Chang et al. 2022).
    """

    def __init__(self, dim: int, target_dim: int, n_targets: int):
        super().__init__()
        self.n_targets = n_targets
        self.expand = nn.Linear(dim, target_dim * n_targets)
        # One (D, D) matrix per head, stacked: applied as a single batched product.
        self.weight = nn.Parameter(torch.empty(n_targets, target_dim, target_dim))
        self.bias = nn.Parameter(torch.zeros(n_targets, 1, target_dim))
        bound = target_dim**-0.5  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    @override
    def forward(self, z: Tensor) -> Tensor:
        x = F.gelu(self.expand(z))  # (B, F, N * D)
        x = x.unflatten(2, (self.n_targets, -1)).transpose(1, 2)  # (B, N, F, D)
        return x @ self.weight + self.bias


class Student(nn.Module):
    """A small encoder F and its prediction heads p_i (Eq. 1).

    Example:
        >>> teacher = HubertEncoder.from_preset("mini")
        >>> student = Student.from_teacher(teacher, layers=2, targets=(2, 4, 6))
        >>> student(torch.randn(1, 16_000)).predictions.shape
        torch.Size([1, 3, 49, 128])
    """

    def __init__(self, config: EncoderConfig, targets: Sequence[int], target_dim: int):
        super().__init__()
        self.targets = tuple(targets)
        self.target_dim = target_dim
        self.encoder = encoder_of(config)
        self.heads = PredictionHeads(config.dim, target_dim, len(self.targets))

    @classmethod
    def from_teacher(
        cls,
        teacher: Encoder,
        *,
        layers: int = 2,
        targets: Sequence[int] = (4, 8, 12),
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        activation_dropout: float = 0.1,
        projection_dropout: float = 0.0,
        cnn_grad_scale: float = 0.1,
        activation_checkpointing: bool = False,
        reuse_attention: bool = False,
    ) -> Student:
        """A student that starts as its teacher up to the first transformer layers.

        Of a HuBERT that is CNN, projection, positional convolution and first layers, without the layer norm
        before the projection (DistilHuBERT has none); of a SPIRAL all of block 1, and the convolutions and
        first layers of block 2.

        Args:
            teacher: the model to distil.
            layers: transformer layers of the student.
            targets: layers of the teacher that the heads predict, 1 is the first.
            dropout: of transformer input and residual branches.
            attention_dropout: of attention weights.
            activation_dropout: inside the feed-forward blocks.
            projection_dropout: after the projection; DistilHuBERT has none there, whatever its teacher has.
            cnn_grad_scale: factor on the gradient that reaches the CNN.
            activation_checkpointing: trade time for memory in the student's layers.
            reuse_attention: layers 2, 4, ... attend as the layer before, without query and key projections.

        Raises:
            ValueError: if the teacher has fewer layers than asked for.
        """
        depth = teacher.config.layers
        if not targets:
            raise ValueError("targets is empty: name at least one teacher layer to predict")
        wrong = [layer for layer in targets if not 1 <= layer <= depth]
        if wrong:
            missing = ", ".join(map(str, wrong))
            raise ValueError(f"targets {tuple(targets)}: the teacher has layers 1 to {depth}, not {missing}")
        if not 1 <= layers <= depth:
            raise ValueError(f"layers is {layers}, but the teacher has {depth}: choose 1 to {depth}")
        encoder = teacher.first_layers(
            layers,
            dropout=dropout,
            attention_dropout=attention_dropout,
            activation_dropout=activation_dropout,
            projection_dropout=projection_dropout,
            layerdrop=0.0,
            cnn_grad_scale=cnn_grad_scale,
            activation_checkpointing=activation_checkpointing,
            **({"reuse_attention": True} if reuse_attention else {}),
        )
        student = cls(encoder.config, targets, teacher.config.dim)
        student.encoder.load_state_dict(encoder.state_dict())
        return student

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None = None,
        *,
        return_cnn: bool = False,
        mask: Tensor | None = None,
        mask_embedding: Tensor | None = None,
    ) -> StudentOutput:
        """Encode and predict.

        Args:
            waveforms: (B, T) at 16 kHz, padded at the end.
            lengths: (B,) int64, valid samples; None when every row is full.
            return_cnn: as every encoder takes it, and so do the masks.
            mask: (B, M) bool, true where `mask_embedding` replaces what the encoder made.
            mask_embedding: (C,); M and C are the encoder's `config.mask_shape`.
        """
        out = self.encoder(
            waveforms, lengths, return_cnn=return_cnn, mask=mask, mask_embedding=mask_embedding
        )
        z = out.last_hidden_state
        return StudentOutput(self.heads(z), out.hidden_states, z, out.lengths, out.cnn)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs to build the same architecture; plain values, for JSON."""
        return {
            "encoder": self.encoder.config.to_dict(),
            "targets": list(self.targets),
            "target_dim": self.target_dim,
        }

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> Student:
        """The architecture that `to_dict` described, with random weights."""
        return cls(config_of(description["encoder"]), description["targets"], description["target_dim"])
