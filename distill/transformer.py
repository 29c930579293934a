"""The transformer that HuBERT, WavLM and SPIRAL share: layers, and how they are run.

That of wav2vec 2.0 (Baevski et al. 2020), with layer norm after each residual branch or before it; positions
come from `distill.convolution.PositionalConv`, in a WavLM also from `RelativePositions`.

Shapes: B utterances, F frames, D features, H attention heads, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

MOST_LAYERS = 1000
"""Of a transformer; the deepest that are published have 48. Building ever more takes for ever."""
MOST_DISTANCE = 1_000_000
"""Frames up to which distances are told apart; WavLM has 800."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape and training-time noise of a transformer; `HubertConfig` describes the fields."""

    dim: int
    layers: int
    heads: int
    ffn_dim: int
    pre_norm: bool = True
    position_kernel: int = 128
    position_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    layerdrop: float = 0.0
    activation_checkpointing: bool = False
    reuse_attention: bool = False
    relative_buckets: int = 0
    relative_distance: int = 800

    def __post_init__(self) -> None:
        for name in ("heads", "position_groups"):
            if self.dim % (parts := getattr(self, name)):
                raise ValueError(f"dim ({self.dim}) must be a multiple of {name} ({parts})")
        if not 1 <= self.layers <= MOST_LAYERS:
            raise ValueError(f"layers must be 1 to {MOST_LAYERS}, not {self.layers}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "layerdrop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if self.reuse_attention and self.layers == 1:
            raise ValueError(
                "reuse_attention needs 2 layers at least: with one, there is no layer before to take the "
                "attention of"
            )
        if self.relative_buckets:
            exact = self.relative_buckets // 4
            if self.relative_buckets % 4 or not 0 < exact < self.relative_distance <= MOST_DISTANCE:
                raise ValueError(
                    "relative_buckets must be a multiple of 4, and relative_distance larger than a quarter "
                    f"of it and at most {MOST_DISTANCE}, not {self.relative_buckets} and "
                    f"{self.relative_distance}"
                )


AttentionMap = tuple[Tensor, Tensor, Tensor | None]
"""What a map is made of: query and key (B, H, F, D / H), and which frames may be attended to (B, 1, 1, F) or
what is added to the products of query and key (B, H, F, F)."""


class RelativePositions(nn.Module):
    """A bias for each head and distance between two frames (WavLM, Chen et al. 2022, as in T5).

    Half of the buckets are for keys that come later than the query. In each half, the first half of the
    buckets is for one distance each, the others grow logarithmically up to `relative_distance`; the last one
    is for all that is farther.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.distance = config.relative_distance
        self.embedding = nn.Embedding(config.relative_buckets, config.heads)
        nn.init.normal_(self.embedding.weight, std=0.02)

    @override
    def forward(self, frames: int) -> Tensor:
        """(H, F, F): head, query, key."""
        device = self.embedding.weight.device
        values = self.embedding(self.bucket(torch.arange(1 - frames, frames, device=device)))  # (2 F - 1, H)
        places = torch.arange(frames, device=device)
        return values.T[:, places - places[:, None] + (frames - 1)]

    def bucket(self, offsets: Tensor) -> Tensor:
        """The bucket of each difference of places, key minus query."""
        half = self.embedding.num_embeddings // 2
        exact = half // 2
        distances = offsets.abs()
        growth = (distances.clamp(min=1).float() / exact).log() / math.log(self.distance / exact)
        far = (exact + growth * (half - exact)).long().clamp(max=half - 1)
        return torch.where(distances < exact, distances, far) + half * (offsets > 0).long()


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward block. (B, F, D) -> (B, F, D).

    Args:
        config: of the transformer.
        reuses: attend as the layer before, without query and key projections of its own.
    """

    def __init__(self, config: TransformerConfig, *, reuses: bool = False):
        super().__init__()
        self.reuses = reuses
        self.hands_on = config.reuse_attention
        self.heads = config.heads
        self.pre_norm = config.pre_norm
        self.dropout = config.dropout
        self.attention_dropout = config.attention_dropout
        self.activation_dropout = config.activation_dropout
        dim = config.dim
        if not reuses:
            self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim)
            if config.relative_buckets:
                self.gate = nn.Linear(dim // config.heads, 8)
                self.gate_scale = nn.Parameter(torch.ones(1, config.heads, 1, 1))
        self.value = nn.Linear(dim, dim)
        self.attention_out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.ffn_in = nn.Linear(dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        own = () if reuses else (self.query, self.key)
        for linear in (*own, self.value, self.attention_out, self.ffn_in, self.ffn_out):
            nn.init.normal_(linear.weight, std=0.02)  # as BERT
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Tensor,
        attend: Tensor | None,
        relative: Tensor | None = None,
        before: AttentionMap | None = None,
    ) -> Tensor | tuple[Tensor, AttentionMap]:
        """The output; with `reuse_attention` also the attention map, for the next layer.

        Args:
            x: (B, F, D).
            attend: (B, 1, 1, F) bool, true where a frame may be attended to; None when all may.
            relative: (H, F, F) of `RelativePositions`, in a WavLM.
            before: the map to attend with, if this layer `reuses` one.
        """
        if self.pre_norm:
            y, attention = self._attention(self.attention_norm(x), attend, relative, before)
            x = x + y
            x = x + self._ffn(self.ffn_norm(x))
        else:
            y, attention = self._attention(x, attend, relative, before)
            x = self.attention_norm(x + y)
            x = self.ffn_norm(x + self._ffn(x))
        return (x, attention) if self.hands_on else x

    def _attention(
        self, x: Tensor, attend: Tensor | None, relative: Tensor | None, before: AttentionMap | None
    ) -> tuple[Tensor, AttentionMap]:
        if self.reuses:
            assert before is not None
            attention = before
        else:
            query, key = self._by_head(self.query, x), self._by_head(self.key, x)
            mask = attend if relative is None else self._gated(relative, x, attend).to(query.dtype)
            if mask is not None and mask.dtype is torch.bool and torch.compiler.is_exporting():
                # Numbers to add: of truth values, graphs look for rows without any, in two more passes.
                mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(~mask, -torch.inf)
            attention = query, key, mask
        query, key, mask = attention
        value = self._by_head(self.value, x)
        dropout = self.attention_dropout if self.training else 0.0
        # Of query and key, not of the map: the fused kernels never hold one in memory.
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        y = y.transpose(1, 2)
        if torch.compiler.is_exporting():  # what the graph makes of attention may lie otherwise in memory
            y = y.clone(memory_format=torch.contiguous_format)
        y = self.attention_out(y.flatten(2))
        return F.dropout(y, self.dropout, self.training), attention

    def _gated(self, relative: Tensor, x: Tensor, attend: Tensor | None) -> Tensor:
        """(B, H, F, F): the relative bias times a gate of each query; minus infinity where padding is.

        Of the gated bias of WavLM (Chen et al. 2022, Sec. 3.1) in the form of its published weights:
        g_u (s g_r - 1) + 2, where g_u and g_r are the sigmoids of the sums of four outputs each of a linear
        layer on a head's part of the features, and s is `gate_scale`.
        """
        parts = x.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, F, D / H)
        update, reset = self.gate(parts).unflatten(3, (2, 4)).sum(4).sigmoid().chunk(2, 3)
        bias = (update * (reset * self.gate_scale - 1.0) + 2.0) * relative
        return bias if attend is None else bias.masked_fill_(~attend, -torch.inf)

    def _by_head(self, linear: nn.Linear, x: Tensor) -> Tensor:
        """(B, F, D) -> (B, H, F, D / H)."""
        return linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _ffn(self, x: Tensor) -> Tensor:
        x = F.dropout(F.gelu(self.ffn_in(x)), self.activation_dropout, self.training)
        return F.dropout(self.ffn_out(x), self.dropout, self.training)


def make_layers(config: TransformerConfig) -> nn.ModuleList:
    """The `TransformerLayer`s of a transformer; with `reuse_attention` the 2nd, 4th, ... reuse maps."""
    reuse = config.reuse_attention
    return nn.ModuleList(
        TransformerLayer(config, reuses=reuse and index % 2 == 1) for index in range(config.layers)
    )


def run_layers(
    layers: Iterable[nn.Module],
    x: Tensor,
    attend: Tensor | None,
    config: TransformerConfig,
    *,
    training: bool,
    relative: Tensor | None = None,
) -> list[Tensor]:
    """The L + 1 hidden states of transformer layers, each (B, F, D).

    Args:
        layers: of class `TransformerLayer`.
        x: (B, F, D), input of the first, before dropout: as such it is the first of the states, to be
            compared with another model's.
        attend: as `TransformerLayer`.
        config: dropout of the input, layerdrop and activation checkpointing.
        training: whether these apply.
        relative: as `TransformerLayer`.
    """
    hidden_states = [x]
    x = F.dropout(x, config.dropout, training)
    attention: AttentionMap | None = None  # of the last layer that was not skipped
    for layer in layers:
        skipped = training and config.layerdrop and torch.rand(()).item() < config.layerdrop
        if skipped or (cast(TransformerLayer, layer).reuses and attention is None):
            # Gradients of zero, not none: under DDP every process must have all of them.
            x = x + 0.0 * torch.stack([parameter.sum() for parameter in layer.parameters()]).sum()
            hidden_states.append(x)
            continue
        inputs = x, attend, relative, attention
        checkpointed = training and config.activation_checkpointing
        made = checkpoint(layer, *inputs, use_reentrant=False) if checkpointed else layer(*inputs)
        x, attention = cast(Any, made) if config.reuse_attention else (cast(Tensor, made), None)
        hidden_states.append(x)
    return hidden_states
