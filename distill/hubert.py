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
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distill.convolution import normalized_conv, strided_conv
from distill.encoder import (
    MOST_CONVOLUTIONS,
    Count,
    Encoder,
    EncoderOutput,
    PositionalConv,
    TransformerConfig,
    make_layers,
    run_layers,
    scale_gradient,
)
from distill.waveforms import all_full, frame_mask, normalize_waveforms, to_device

INHERITED = (
    *("conv_layers", "conv_norm", "conv_bias", "normalize_input"),
    *("dim", "heads", "ffn_dim", "pre_norm", "position_kernel", "position_groups"),
)
"""What a student takes from its teacher's configuration: the shapes of the weights that it starts with, and
how they are used. Dropout and the like are its own."""


def _conv_stack(channels: int) -> tuple[tuple[int, int, int], ...]:
    """The seven (channels, kernel, stride) of wav2vec 2.0 and HuBERT: 400 samples seen, a hop of 320."""
    return ((channels, 10, 5), *[(channels, 3, 2)] * 4, *[(channels, 2, 2)] * 2)


@dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """Everything that decides the shape and the training-time noise of a `HubertEncoder`."""

    family: ClassVar[str] = "hubert"

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
    reuse_attention: bool = False
    """Layers 2, 4, ... attend with the maps of the layer before and have no query and key projections
    (ARMHuBERT, Jang et al. 2023, arXiv 2305.11685)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "conv_layers", tuple(tuple(layer) for layer in self.conv_layers))
        if not 1 <= len(self.conv_layers) <= MOST_CONVOLUTIONS:
            raise ValueError(
                f"there must be 1 to {MOST_CONVOLUTIONS} convolutions, not {len(self.conv_layers)}"
            )
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm must be 'group' or 'layer', not {self.conv_norm!r}")
        if not 0.0 <= self.projection_dropout < 1.0:
            raise ValueError(f"projection_dropout must be in [0, 1), not {self.projection_dropout}")
        _ = self.transformer  # checks the rest

    @property
    def transformer(self) -> TransformerConfig:
        """The part behind the projection."""
        return TransformerConfig(
            **{field.name: getattr(self, field.name) for field in fields(TransformerConfig)}
        )

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

    @property
    def min_samples(self) -> int:
        """Samples of the shortest utterance that can be encoded: it has one frame."""
        return self.receptive_field

    def mask_shape(self, n_samples: int) -> tuple[int, int]:
        """Frames and features of the transformer's input, where masks apply."""
        return self.frames(n_samples), self.dim

    def frames(self, n_samples: Count) -> Count:
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


class ConvLayer(nn.Module):
    """One convolution of the CNN, its normalisation and GELU. (B, F_in, C_in) -> (B, F_out, C_out).

    Whatever follows the frames that the input is long enough for means nothing.
    """

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

    @override
    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """`lengths` (B,): valid frames of the output; None when every row is full."""
        if not isinstance(self.norm, nn.GroupNorm):
            x = strided_conv(x, self.conv)
            return F.gelu(x if self.norm is None else self.norm(x))
        if torch.compiler.is_compiling() or self.conv.bias is not None:
            x = strided_conv(x, self.conv)
            return F.gelu(masked_instance_norm(x.transpose(1, 2), lengths, self.norm).transpose(1, 2))
        return F.gelu(normalized_conv(x, lengths, self.conv, self.norm))


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


class HubertEncoder(Encoder):
    """HuBERT without its pre-training head.

    Example:
        >>> encoder = HubertEncoder.from_preset("mini").eval()
        >>> out = encoder(torch.randn(2, 16_000), torch.tensor([16_000, 12_000]))
        >>> len(out.hidden_states), out.lengths.tolist()
        (7, [49, 37])
    """

    config: HubertConfig
    presets = PRESETS

    def __init__(self, config: HubertConfig):
        super().__init__(config)
        self.transformer_config = config.transformer  # not made anew in `forward`, which compiles
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
        self.position = PositionalConv(config.transformer)
        self.norm = nn.LayerNorm(config.dim)  # before the layers (base) or after them (large)
        self.layers = make_layers(config.transformer)

    @override
    def first_layers(self, layers: int, **regularisation: Any) -> HubertEncoder:
        """As every encoder; the layer norm before the projection is left out (DistilHuBERT has none)."""
        inherited = {name: getattr(self.config, name) for name in INHERITED}
        if self.config.reuse_attention and layers > 1 and not regularisation.get("reuse_attention"):
            raise ValueError(
                "the teacher's layer 2 has no query and key projections to start from (its reuse_attention "
                "is on): set student.reuse_attention=true"
            )
        made = HubertEncoder(
            HubertConfig(**inherited, layers=layers, projection_norm=False, **regularisation)
        )
        return self.give_to(made)

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
        """As every encoder. Masks apply to the transformer's input, (B, F) and (B, D)."""
        self.check(waveforms, lengths)
        lengths = None if all_full(waveforms, lengths) else lengths
        frames: Tensor | None = None  # valid frames; None while every row is full
        if lengths is not None:
            lengths = to_device(lengths, waveforms.device)
            frames = self.config.frames(lengths)
        features = self._cnn(waveforms, lengths)  # (B, F, C)
        x = self.projection(features if self.projection_norm is None else self.projection_norm(features))
        x = F.dropout(x, self.config.projection_dropout, self.training)
        if mask is not None:
            assert mask_embedding is not None
            x = torch.where(mask[:, :, None], mask_embedding.to(x.dtype), x)
        if mask_channels is not None:
            x = x.masked_fill(mask_channels[:, None, :], 0.0)
        attend = None
        if frames is not None:
            valid = frame_mask(frames, x.shape[1])  # (B, F)
            x = x.masked_fill(~valid[:, :, None], 0.0)
            attend = valid[:, None, None, :]
        hidden_states = self._transformer(x, attend)
        if frames is None:
            frames = torch.full((x.shape[0],), x.shape[1], dtype=torch.int64, device=x.device)
        last = self.norm(hidden_states[-1]) if self.config.pre_norm else hidden_states[-1]
        return EncoderOutput(hidden_states, last, frames, features if return_cnn else None)

    def _cnn(self, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T) -> (B, F, C)."""
        if self.config.normalize_input:
            waveforms = normalize_waveforms(waveforms, lengths)
        elif lengths is not None:  # in the statistics, 0 times a padding that is not finite would not be 0
            waveforms = waveforms.masked_fill(~frame_mask(lengths, waveforms.shape[1]), 0.0)
        x = waveforms.to(self.projection.weight.dtype)[:, :, None]
        valid = lengths
        for layer, (_, kernel, stride) in zip(self.cnn, self.config.conv_layers, strict=True):
            valid = None if valid is None else (valid - kernel) // stride + 1
            x = layer(x, valid)
        x = x[:, : self.config.frames(waveforms.shape[1])]
        return scale_gradient(x, self.config.cnn_grad_scale)

    def _transformer(self, x: Tensor, attend: Tensor | None) -> list[Tensor]:
        """(B, F, D) -> the L + 1 hidden states."""
        x = x + self.position(x)
        if not self.config.pre_norm:
            x = self.norm(x)
        x = F.dropout(x, self.config.dropout, self.training)
        return run_layers(self.layers, x, attend, self.transformer_config, training=self.training)


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
