"""HuBERT: a waveform in, the hidden states of every transformer layer out. One model for teacher and student.

Shapes: B utterances, T samples at 16 kHz, F frames (20 ms in published ones), C channels of the CNN,
D features, L layers.

The architecture is Hsu et al. 2021 (HuBERT). Two variants exist and both are here: *base* (group norm in the
first convolution, layer norm after each residual) and *large* (layer norm in every convolution, layer norm
before each residual, waveforms normalised to zero mean and unit variance).

An utterance gets the same features alone and inside any padded batch: statistics over time (the group norm,
the waveform normalisation) run over its own samples, padded frames are zero before the positional convolution
and are never attended to. Values at padded frames of the output mean nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint
from typing_extensions import override

from distill.waveforms import check_samples, frame_mask, normalize_waveforms

if TYPE_CHECKING:
    import numpy as np

_Count = TypeVar("_Count", int, Tensor, "np.ndarray")


def _conv_stack(channels: int) -> tuple[tuple[int, int, int], ...]:
    """The seven (channels, kernel, stride) of wav2vec 2.0 and HuBERT: 400 samples seen, a hop of 320."""
    return ((channels, 10, 5), *[(channels, 3, 2)] * 4, *[(channels, 2, 2)] * 2)


@dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """Everything that decides the shape and the training-time noise of a `HubertEncoder`."""

    conv_layers: tuple[tuple[int, int, int], ...] = _conv_stack(512)
    """(channels, kernel in samples, stride in samples) of each convolution."""
    conv_norm: Literal["group", "layer"] = "group"
    """"group": one group norm per channel after the first convolution; "layer": layer norm after each."""
    conv_bias: bool = False
    """Whether the convolutions have a bias."""
    normalize_input: bool = False
    """Normalise each waveform to zero mean and unit variance first."""
    projection_norm: bool = True
    """Layer norm between CNN and projection (DistilHuBERT students have none)."""
    dim: int = 768
    """D, width of the transformer."""
    layers: int = 12
    """L, transformer layers."""
    heads: int = 12
    """Attention heads."""
    ffn_dim: int = 3072
    """Hidden width of the feed-forward blocks."""
    pre_norm: bool = False
    """Layer norm before each residual branch (large) or after it (base)."""
    position_kernel: int = 128
    """Kernel of the positional convolution, in frames."""
    position_groups: int = 16
    """Groups of the positional convolution."""
    dropout: float = 0.1
    """Dropout probability of transformer input and residual branches."""
    attention_dropout: float = 0.1
    """Dropout probability of attention weights."""
    activation_dropout: float = 0.0
    """Dropout probability inside the feed-forward blocks."""
    projection_dropout: float = 0.0
    """Dropout probability after the projection."""
    layerdrop: float = 0.0
    """Probability of skipping a layer in training."""
    cnn_grad_scale: float = 1.0
    """Factor on the gradient that reaches the CNN."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "conv_layers", tuple(tuple(layer) for layer in self.conv_layers))
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm must be 'group' or 'layer', not {self.conv_norm!r}")
        if self.dim % self.heads:
            raise ValueError(f"dim ({self.dim}) must be a multiple of heads ({self.heads})")
        if self.dim % self.position_groups:
            raise ValueError(
                f"dim ({self.dim}) must be a multiple of position_groups ({self.position_groups})"
            )
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1, not {self.layers}")
        for name in ("dropout", "attention_dropout", "activation_dropout", "projection_dropout", "layerdrop"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees: 400 for every HuBERT. Shorter waveforms have no frame at all."""
        field = 1
        for _, kernel, stride in reversed(self.conv_layers):
            field = (field - 1) * stride + kernel
        return field

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 320 (20 ms) for every published HuBERT of 50 Hz."""
        return math.prod(stride for _, _, stride in self.conv_layers)

    def frames(self, n_samples: _Count) -> _Count:
        """Number of frames that `n_samples` samples give: one int, or a tensor or array of them."""
        for _, kernel, stride in self.conv_layers:
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


PRESETS: dict[str, HubertConfig] = {
    "base": HubertConfig(),
    "large": HubertConfig(
        conv_norm="layer", normalize_input=True, dim=1024, layers=24, heads=16, ffn_dim=4096, pre_norm=True
    ),
    # Small enough to be pre-trained on two CPU cores in minutes, and then never overfitted: no dropout.
    "mini": HubertConfig(
        conv_layers=_conv_stack(32),
        dim=128,
        layers=6,
        heads=4,
        ffn_dim=512,
        position_kernel=32,
        position_groups=8,
        dropout=0.0,
        attention_dropout=0.0,
    ),
}


@dataclass
class HubertOutput:
    """What `HubertEncoder` returns."""

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


class _ScaledGradient(torch.autograd.Function):
    """The identity, to the last bit in every precision; its gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.scale, None


class ConvLayer(nn.Module):
    """One convolution of the CNN, its normalisation and GELU. (B, C_in, F_in) -> (B, C_out, F_out)."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, *, bias: bool, norm: str):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride, bias=bias)
        nn.init.kaiming_normal_(self.conv.weight)
        if norm == "group":
            self.norm = nn.GroupNorm(channels, channels)
        elif norm == "layer":
            self.norm = nn.LayerNorm(channels)
        else:
            self.norm = None

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """`lengths` (B,): valid frames of the output; None when every row is full."""
        x = self.conv(x)
        if isinstance(self.norm, nn.LayerNorm):
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        elif isinstance(self.norm, nn.GroupNorm):
            x = masked_instance_norm(x, lengths, self.norm)
        return F.gelu(x)


def masked_instance_norm(x: Tensor, lengths: Tensor | None, norm: nn.GroupNorm) -> Tensor:
    """Group norm with one channel a group, its statistics over valid frames only, in float32.

    x (B, C, F); lengths (B,) valid frames or None. Without padding this is exactly `nn.GroupNorm`.
    """
    with torch.autocast(x.device.type, enabled=False):
        full = x.float()
        if lengths is None:
            weight, bias = norm.weight.float(), norm.bias.float()
            return F.group_norm(full, norm.num_groups, weight, bias, norm.eps).to(x.dtype)
        # Few passes over memory: this is the largest tensor of the model.
        valid = frame_mask(lengths, x.shape[2]).float()  # (B, F)
        count = lengths[:, None, None]
        mean = full @ valid[:, :, None] / count  # (B, C, 1)
        centred = (full - mean) * valid[:, None]
        variance = torch.linalg.vector_norm(centred, dim=2, keepdim=True).square() / count
        scale = norm.weight[:, None] * torch.rsqrt(variance + norm.eps)
        return torch.addcmul(norm.bias[:, None], centred, scale).to(x.dtype)


class PositionalConv(nn.Module):
    """Relative positions by a grouped convolution over time, weight-normalised. (B, F, D) -> (B, F, D)."""

    def __init__(self, dim: int, kernel: int, groups: int):
        super().__init__()
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        nn.init.normal_(conv.weight, std=(4.0 / (kernel * dim)) ** 0.5)
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, name="weight", dim=2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[1]  # an even kernel gives one frame too many, dropped at the end
        if x.dtype == torch.bfloat16 and x.device.type == "cpu":
            y = self._in_float32(x.transpose(1, 2))
        else:
            y = self.conv(x.transpose(1, 2))
        return F.gelu(y[:, :, :frames]).transpose(1, 2)

    def _in_float32(self, x: Tensor) -> Tensor:
        """On some processors grouped convolutions in bfloat16 are wrong by as much as their values."""
        conv = cast(nn.Conv1d, self.conv)
        with torch.autocast("cpu", enabled=False):
            bias = None if conv.bias is None else conv.bias.float()
            y = F.conv1d(x.float(), conv.weight.float(), bias, padding=conv.padding, groups=conv.groups)
        return y.to(x.dtype)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward block. (B, F, D) -> (B, F, D)."""

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.heads = config.heads
        self.pre_norm = config.pre_norm
        self.dropout = config.dropout
        self.attention_dropout = config.attention_dropout
        self.activation_dropout = config.activation_dropout
        dim = config.dim
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.attention_out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.ffn_in = nn.Linear(dim, config.ffn_dim)
        self.ffn_out = nn.Linear(config.ffn_dim, dim)
        self.ffn_norm = nn.LayerNorm(dim)
        for linear in (self.query, self.key, self.value, self.attention_out, self.ffn_in, self.ffn_out):
            nn.init.normal_(linear.weight, std=0.02)  # as BERT
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, attend: Tensor | None) -> Tensor:
        """`attend` (B, 1, 1, F) bool, true where a frame may be attended to; None when all may."""
        if self.pre_norm:
            x = x + self._attention(self.attention_norm(x), attend)
            return x + self._ffn(self.ffn_norm(x))
        x = self.attention_norm(x + self._attention(x, attend))
        return self.ffn_norm(x + self._ffn(x))

    def _attention(self, x: Tensor, attend: Tensor | None) -> Tensor:
        query, key, value = (
            linear(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, H, F, D / H)
            for linear in (self.query, self.key, self.value)
        )
        dropout = self.attention_dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=attend, dropout_p=dropout)
        y = self.attention_out(y.transpose(1, 2).flatten(2))
        return F.dropout(y, self.dropout, self.training)

    def _ffn(self, x: Tensor) -> Tensor:
        x = F.dropout(F.gelu(self.ffn_in(x)), self.activation_dropout, self.training)
        return F.dropout(self.ffn_out(x), self.dropout, self.training)


class HubertEncoder(nn.Module):
    """HuBERT without its pre-training head.

    Example:
        >>> encoder = HubertEncoder.from_preset("mini").eval()
        >>> out = encoder(torch.randn(2, 16_000), torch.tensor([16_000, 12_000]))
        >>> len(out.hidden_states), out.lengths.tolist()
        (7, [49, 37])
    """

    def __init__(self, config: HubertConfig):
        super().__init__()
        self.config = config
        self.cnn = nn.ModuleList()
        in_channels = 1
        for index, (channels, kernel, stride) in enumerate(config.conv_layers):
            norm = "none" if config.conv_norm == "group" and index else config.conv_norm
            self.cnn.append(
                ConvLayer(in_channels, channels, kernel, stride, bias=config.conv_bias, norm=norm)
            )
            in_channels = channels
        self.projection_norm = nn.LayerNorm(in_channels) if config.projection_norm else None
        self.projection = nn.Linear(in_channels, config.dim)
        self.position = PositionalConv(config.dim, config.position_kernel, config.position_groups)
        self.norm = nn.LayerNorm(config.dim)  # before the layers (base) or after them (large)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.pretraining_head: Any = None  # a `checkpoints.fairseq.Head`, kept for exporting it again

    @classmethod
    def from_preset(cls, name: str, **changes: Any) -> HubertEncoder:
        """A randomly initialised model.

        Args:
            name: "base", "large" or "mini".
            **changes: fields of `HubertConfig` that differ from the preset.

        Raises:
            ValueError: for an unknown preset.
        """
        if name not in PRESETS:
            raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
        return cls(replace(PRESETS[name], **changes))

    def forward(
        self,
        waveforms: Tensor,
        lengths: Tensor | None = None,
        *,
        return_cnn: bool = False,
        mask: Tensor | None = None,
        mask_embedding: Tensor | None = None,
    ) -> HubertOutput:
        """Encode a padded batch.

        Args:
            waveforms: (B, T) at 16 kHz, padded at the end; floating point of any precision, converted to the
                model's.
            lengths: (B,) int64, valid samples of each row; None when every row is full.
            return_cnn: also return the output of the CNN.
            mask: (B, F) bool, frames to replace by `mask_embedding` (masked prediction).
            mask_embedding: (D,).

        Raises:
            ValueError: for a wrong shape, integer samples, or utterances too short to give a single frame.
        """
        self._check(waveforms, lengths)
        frames: Tensor | None = None  # valid frames; None while every row is full
        if lengths is not None:
            lengths = lengths.to(waveforms.device)
            frames = self.config.frames(lengths)
        features = self._cnn(waveforms, lengths)  # (B, F, C)
        x = self.projection(features if self.projection_norm is None else self.projection_norm(features))
        x = F.dropout(x, self.config.projection_dropout, self.training)
        if mask is not None:
            assert mask_embedding is not None
            x = torch.where(mask[:, :, None], mask_embedding.to(x.dtype), x)
        attend = None
        if frames is not None:
            valid = frame_mask(frames, x.shape[1])  # (B, F)
            x = x.masked_fill(~valid[:, :, None], 0.0)
            attend = valid[:, None, None, :]
        hidden_states = self._transformer(x, attend)
        if frames is None:
            frames = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        last = self.norm(hidden_states[-1]) if self.config.pre_norm else hidden_states[-1]
        return HubertOutput(hidden_states, last, frames, features if return_cnn else None)

    def _cnn(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T) -> (B, F, C)."""
        if self.config.normalize_input:
            waveforms = normalize_waveforms(waveforms, lengths)
        elif lengths is not None:  # in the statistics, 0 times a padding that is not finite would not be 0
            waveforms = waveforms.masked_fill(~frame_mask(lengths, waveforms.shape[1]), 0.0)
        x = waveforms.to(self.projection.weight.dtype)[:, None]
        valid = lengths
        for layer, (_, kernel, stride) in zip(self.cnn, self.config.conv_layers, strict=True):
            valid = None if valid is None else (valid - kernel) // stride + 1
            x = layer(x, valid)
        if self.config.cnn_grad_scale != 1.0 and x.requires_grad:
            x = cast(Tensor, _ScaledGradient.apply(x, self.config.cnn_grad_scale))
        return x.transpose(1, 2)

    def _transformer(self, x: Tensor, attend: Tensor | None) -> list[Tensor]:
        """(B, F, D) -> the L + 1 hidden states."""
        x = x + self.position(x)
        if not self.config.pre_norm:
            x = self.norm(x)
        x = F.dropout(x, self.config.dropout, self.training)
        hidden_states = [x]
        for layer in self.layers:
            if self.training and self.config.layerdrop and torch.rand(()).item() < self.config.layerdrop:
                # Gradients of zero, not none: under DDP every process must have all of them.
                x = x + 0.0 * torch.stack([parameter.sum() for parameter in layer.parameters()]).sum()
            elif self.training and self.config.activation_checkpointing:
                x = cast(Tensor, checkpoint(layer, x, attend, use_reentrant=False))
            else:
                x = layer(x, attend)
            hidden_states.append(x)
        return hidden_states

    def _check(self, waveforms: Tensor, lengths: Tensor | None) -> None:
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
        if shortest < self.config.receptive_field:
            raise ValueError(
                f"an utterance of {shortest} samples is too short: a frame needs "
                f"{self.config.receptive_field} samples at 16 kHz"
            )


def beyond_weights(config: HubertConfig) -> str:
    """What decides a model's features but is not visible in its weights; "" where it is that of base.

    Part of the identity of everything made of features: the same weights give other features with other
    strides or heads, or with the waveforms normalised. Pre-norm models are named because features of their
    last layer were once taken before the final norm.
    """
    found = {
        "strides": tuple(stride for _, _, stride in config.conv_layers),
        "head_dim": config.dim // config.heads,
        "normalize_input": config.normalize_input,
        "last_after_norm": config.pre_norm,
    }
    usual = {
        "strides": tuple(stride for _, _, stride in HubertConfig().conv_layers),
        "head_dim": 64,
        "normalize_input": False,
        "last_after_norm": False,
    }
    return " ".join(f"{name}={value}" for name, value in found.items() if value != usual[name])
