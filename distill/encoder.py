"""What HuBERT and SPIRAL have in common, and all that the rest of the code needs to know of an encoder.

Shapes: B utterances, T samples at 16 kHz, F frames, D features, L layers, M units of a time mask, C channels.

The transformer is that of wav2vec 2.0 (Baevski et al. 2020), with layer norm after each residual branch or
before it: `distill.convolution.PositionalConv`, then `TransformerLayer`s.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from distill.waveforms import check_samples

if TYPE_CHECKING:
    import numpy as np

Count = TypeVar("Count", int, Tensor, "np.ndarray")
_Encoder = TypeVar("_Encoder", bound="Encoder")

FAMILY_NAMES = {"hubert": "HuBERT", "spiral": "SPIRAL"}
"""What people call the families of encoders."""


MOST_LAYERS = 1000
"""Of a transformer; the deepest that are published have 48. Building ever more takes for ever."""
MOST_CONVOLUTIONS = 100
"""One behind the other; published encoders have 7."""

MOST_DISTANCE = 1_000_000
"""Frames up to which distances are told apart; WavLM has 800."""


class EncoderConfig(Protocol):
    """What may be asked of the configuration of any encoder."""

    family: ClassVar[str]
    """Which class of encoder: "hubert" or "spiral"."""

    @property
    def dim(self) -> int:
        """D, features of a frame."""
        ...

    @property
    def layers(self) -> int:
        """L, transformer layers whose outputs are `hidden_states`."""
        ...

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        ...

    @property
    def min_samples(self) -> int:
        """Samples of the shortest utterance that can be encoded."""
        ...

    @property
    def normalize_input(self) -> bool:
        """Whether the encoder normalises waveforms to zero mean and unit variance."""
        ...

    def frames(self, n_samples: Count) -> Count:
        """Valid frames of `n_samples` samples: one int, or a tensor or array of them."""
        ...

    def mask_shape(self, n_samples: int) -> tuple[int, int]:
        """(M, C) of the masks that an encoder takes with waveforms of `n_samples` samples."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; `distill.student.config_of` reads them."""
        ...


@dataclass
class EncoderOutput:
    """What `Encoder` returns."""

    hidden_states: list[Tensor]
    """L + 1 tensors (B, F, D): [0] is the transformer's input, [i] the output of layer i."""
    last_hidden_state: Tensor
    """(B, F, D): hidden_states[-1], through the final layer norm in pre-norm models."""
    lengths: Tensor
    """(B,) int64, valid frames."""
    cnn: Tensor | None = None
    """(B, F, C), the output of the CNN, if asked for."""

    @property
    def features(self) -> list[Tensor]:
        """`hidden_states` with `last_hidden_state` in place of the last one: what is used of a model.

        The same in post-norm models. In pre-norm ones the last layer's raw output is only the residual stream
        that the final layer norm was trained to read.
        """
        return [*self.hidden_states[:-1], self.last_hidden_state]


class Encoder(nn.Module):
    """A waveform in, the hidden states of every transformer layer out."""

    config: Any
    """An `EncoderConfig`; each class has its own."""
    presets: ClassVar[Mapping[str, Any]]
    """Configurations by name."""
    pretraining_head: Any = None
    """Whatever a checkpoint has beside the encoder and an export may want again."""

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> Self:
        """A randomly initialised model.

        Args:
            name: one of `presets`: "base", "large" or "mini".
            **changes: fields of the configuration that differ from the preset.

        Raises:
            ValueError: for an unknown preset.
        """
        if name not in cls.presets:
            raise ValueError(f"unknown preset {name!r}; there are {', '.join(cls.presets)}")
        return cls(replace(cls.presets[name], **changes))

    def regularised(self, **fields: Any) -> Self:
        """The same weights in a new encoder with other dropout and the like; itself if nothing is given."""
        return self.give_to(type(self)(replace(self.config, **fields))) if fields else self

    def give_to(self, other: _Encoder) -> _Encoder:
        """Copy weights into an encoder; all that it has must be here, but it may be shallower."""
        names = other.state_dict().keys()
        other.load_state_dict({name: value for name, value in self.state_dict().items() if name in names})
        return other

    @abstractmethod
    @override
    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None = None,
        *,
        return_cnn: bool = False,
        mask: Tensor | None = None,
        mask_channels: Tensor | None = None,
        mask_embedding: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode a padded batch.

        Args:
            waveforms: (B, T) at 16 kHz, padded at the end; floating point of any precision, converted to the
                model's.
            lengths: (B,) int64, valid samples of each row; None when every row is full.
            return_cnn: also return the output of the first convolutions.
            mask: (B, M) bool, stretches of time to replace by `mask_embedding`.
            mask_channels: (B, C) bool, channels to set to zero, after that.
            mask_embedding: (C,); M and C are `config.mask_shape`.

        Raises:
            ValueError: for a wrong shape, integer samples, or utterances that are too short.
        """

    @abstractmethod
    def first_layers(self, layers: int, **regularisation: Any) -> Self:
        """A new encoder, in training mode, that starts as everything up to the first transformer layers.

        Args:
            layers: how many.
            **regularisation: fields of the configuration: dropout and the like.
        """

    def check(self, waveforms: Tensor, lengths: Tensor | None) -> None:
        """Refuse waveforms and lengths that no encoder can use.

        Raises:
            ValueError: saying what is wrong.
        """
        check_samples("waveforms", waveforms)
        if waveforms.dim() != 2:
            raise ValueError(f"waveforms must be (B, T), not {tuple(waveforms.shape)}")
        shortest = waveforms.shape[1]
        # Lengths on a GPU are trusted: reading them would wait for it. `distill.data` checks them.
        if lengths is not None and lengths.device.type == "cpu" and not torch.compiler.is_compiling():
            if lengths.shape != waveforms.shape[:1]:
                raise ValueError(
                    f"lengths must be ({waveforms.shape[0]},) for waveforms {tuple(waveforms.shape)}, "
                    f"not {tuple(lengths.shape)}"
                )
            if int(lengths.max()) > shortest:
                raise ValueError(f"lengths go up to {int(lengths.max())}, waveforms have {shortest} samples")
            shortest = int(lengths.min())
        if shortest < (least := self.config.min_samples):
            raise ValueError(
                f"an utterance of {shortest} samples is too short: a frame needs {least} samples at 16 kHz"
            )


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
        x: (B, F, D), input of the first.
        attend: as `TransformerLayer`.
        config: layerdrop and activation checkpointing.
        training: whether these apply.
        relative: as `TransformerLayer`.
    """
    hidden_states = [x]
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


def scale_gradient(x: Tensor, scale: float) -> Tensor:
    """The same tensor, to the last bit; its gradient is multiplied by a factor."""
    return cast(Tensor, _ScaledGradient.apply(x, scale)) if scale != 1.0 and x.requires_grad else x


class _ScaledGradient(torch.autograd.Function):
    """The identity, to the last bit in every precision; its gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.scale, None
