"""SPIRAL's encoder: log-mel features in, block 1 at 40 ms, block 2 and its hidden states at 80 ms.

Shapes: B utterances, T samples at 16 kHz, M mel frames (10 ms), F frames (40 or 80 ms), D features,
L layers.

The architecture is Huang et al. 2022, Table 1, in the details of its reference implementation: convolutions
with layer norm, and with ReLU and dropout where their kernel is larger than 1; pre-norm transformers with a
final layer norm each; strided convolutions see one frame more ahead than behind.

An utterance gets the same features alone and inside any padded batch: padded frames are zero before every
convolution over time and are never attended to. Values at padded frames of the output mean nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distill.convolution import PositionalConv, strided_conv
from distill.encoder import (
    MOST_CONVOLUTIONS,
    Count,
    Encoder,
    EncoderOutput,
    scale_gradient,
)
from distill.transformer import TransformerConfig, make_layers, run_layers
from distill.waveforms import all_full, frame_mask, to_device
from distill.waveforms.logmel import BANDS, MOST_BANDS, STEP, LogMel

Convolutions = tuple[tuple[int, int, int], ...]
"""(channels, kernel, stride) of each, in frames."""

_MASK_DEVIATION = 0.0086  # of the 128 constants that fill masked frames in the reference
_MASK_SEED = 2022  # an arbitrary one: the same vector in every run


@dataclass(frozen=True, kw_only=True)
class SpiralConfig:
    """Everything that decides the shape and the training-time noise of a `SpiralEncoder`; defaults: BASE."""

    family: ClassVar[str] = "spiral"

    bands: int = BANDS
    """Mel bands of the features."""
    block1_conv_layers: Convolutions = ((384, 5, 2), (512, 5, 2), (512, 1, 1))
    """Convolutions of block 1; the last one's channels are its transformer's width."""
    block1_layers: int = 2
    """Transformer layers of block 1."""
    block1_heads: int = 8
    """Attention heads of block 1."""
    block1_ffn_dim: int = 2048
    """Hidden width of the feed-forward blocks of block 1."""
    block1_layerdrop: float = 0.0
    """Probability of skipping a layer of block 1 in training."""
    conv_layers: Convolutions = ((1536, 5, 2), (768, 1, 1))
    """Convolutions of block 2; the last one's channels are D."""
    layers: int = 10
    """L, transformer layers of block 2."""
    heads: int = 12
    """Attention heads of block 2."""
    ffn_dim: int = 3072
    """Hidden width of the feed-forward blocks of block 2."""
    layerdrop: float = 0.05
    """Probability of skipping a layer of block 2 in training."""
    position_kernel: int = 128
    """Kernel of the positional convolutions, in frames of their block."""
    position_groups: int = 16
    """Groups of the positional convolutions."""
    dropout: float = 0.1
    """Dropout probability behind convolutions, of transformer input and of residual branches."""
    attention_dropout: float = 0.1
    """Dropout probability of attention weights."""
    activation_dropout: float = 0.0
    """Dropout probability inside the feed-forward blocks."""
    cnn_grad_scale: float = 1.0
    """Factor on the gradient that reaches the convolutions of block 1."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more time."""

    def __post_init__(self) -> None:
        for name in ("block1_conv_layers", "conv_layers"):
            layers = tuple(tuple(layer) for layer in getattr(self, name))
            object.__setattr__(self, name, layers)
            if not 1 <= len(layers) <= MOST_CONVOLUTIONS:
                raise ValueError(f"{name} must be 1 to {MOST_CONVOLUTIONS} convolutions, not {len(layers)}")
            fits = [kernel in (1, 5) and stride in (1, 2) for _, kernel, stride in layers]
            if not all(fits):
                raise ValueError(f"{name} must have kernels of 5 or 1 and strides of 1 or 2, not {layers}")
        if not 1 <= self.bands <= MOST_BANDS:
            raise ValueError(f"bands must be 1 to {MOST_BANDS}, not {self.bands}")
        _ = self.transformers  # checks the rest

    @property
    def model_name(self) -> str:
        """What people call such models."""
        return "SPIRAL"

    @property
    def dim(self) -> int:
        """D, width of block 2 and of the output."""
        return self.conv_layers[-1][0]

    @property
    def stride(self) -> int:
        """Mel frames from one output frame to the next: 8 in published models."""
        return math.prod(stride for _, _, stride in (*self.block1_conv_layers, *self.conv_layers))

    @property
    def hop(self) -> int:
        """Samples from one output frame to the next: 1280 (80 ms) in published models."""
        return STEP * self.stride

    @property
    def middle(self) -> int:
        """Sample in the middle of what the first frame's convolutions see: 1120 in published models."""
        frame, step = 0, 1  # of mel frames, the first of which is around the first sample
        for _, kernel, stride in (*self.block1_conv_layers, *self.conv_layers):
            frame += step * (stride - 1) * (kernel > 1)
            step *= stride
        return STEP * frame

    @property
    def min_samples(self) -> int:
        """Samples of the shortest utterance: two mel frames, since one alone has no standard deviation."""
        return STEP + 1

    @property
    def normalize_input(self) -> bool:
        """SPIRAL normalises its features instead of its waveforms."""
        return False

    @property
    def transformers(self) -> tuple[TransformerConfig, TransformerConfig]:
        """Those of blocks 1 and 2."""
        common = {
            name: getattr(self, name)
            for name in ("position_kernel", "position_groups", "dropout", "attention_dropout")
            + ("activation_dropout", "activation_checkpointing")
        }
        return TransformerConfig(
            dim=self.block1_conv_layers[-1][0],
            layers=self.block1_layers,
            heads=self.block1_heads,
            ffn_dim=self.block1_ffn_dim,
            layerdrop=self.block1_layerdrop,
            **common,
        ), TransformerConfig(
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            ffn_dim=self.ffn_dim,
            layerdrop=self.layerdrop,
            **common,
        )

    def frames(self, n_samples: Count) -> Count:
        """Number of frames that `n_samples` samples give, one for each hop begun."""
        return (n_samples + self.hop - 1) // self.hop

    def mask_shape(self, n_samples: int) -> tuple[int, int]:
        """Mel frames (padded to a multiple of `stride`) and bands, where masks apply."""
        return self.frames(n_samples) * self.stride, self.bands

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"family": self.family, **asdict(self)}


PRESETS: dict[str, SpiralConfig] = {
    "base": SpiralConfig(),
    "large": SpiralConfig(
        block1_layers=4,
        block1_layerdrop=0.05,
        conv_layers=((2048, 5, 2), (1024, 1, 1)),
        layers=20,
        heads=16,
        ffn_dim=4096,
    ),
    # Small enough to be pre-trained on two CPU cores in minutes.
    "mini": SpiralConfig(
        block1_conv_layers=((96, 5, 2), (128, 5, 2), (128, 1, 1)),
        block1_layers=1,
        block1_heads=4,
        block1_ffn_dim=512,
        conv_layers=((256, 5, 2), (128, 1, 1)),
        layers=4,
        heads=4,
        ffn_dim=512,
        layerdrop=0.0,
        position_kernel=32,
        position_groups=8,
    ),
}


class NormedConv(nn.Module):
    """Convolution over time, layer norm, and ReLU and dropout if its kernel is larger than 1.

    (B, F, C_in), (B,) valid frames or None -> (B, F / stride, C_out). F is a multiple of the stride.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, dropout: float):
        super().__init__()
        self.conv = nn.Conv1d(in_channels, channels, kernel, stride)
        nn.init.kaiming_normal_(self.conv.weight)
        self.norm = nn.LayerNorm(channels)
        self.dropout = dropout
        ahead = kernel // 2  # with stride 2 one frame less behind, whatever the length
        self.padding = (ahead - (stride - 1) if kernel > 1 else 0, ahead)

    @override
    def forward(self, x: Tensor, frames: Tensor | None) -> Tensor:
        pointwise = self.conv.kernel_size == (1,)
        if frames is not None and not pointwise:
            x = x.masked_fill(~frame_mask(frames, x.shape[1])[:, :, None], 0.0)
        n_frames = x.shape[1] // self.conv.stride[0]
        x = strided_conv(x if pointwise else F.pad(x, (0, 0, *self.padding)), self.conv)[:, :n_frames]
        x = self.norm(x)
        return x if pointwise else F.dropout(F.relu(x), self.dropout, self.training)


class SpiralBlock(nn.Module):
    """Convolutions, then a pre-norm transformer with a final layer norm."""

    def __init__(self, in_channels: int, convolutions: Convolutions, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.convs = nn.ModuleList()
        for channels, kernel, stride in convolutions:
            self.convs.append(NormedConv(in_channels, channels, kernel, stride, config.dropout))
            in_channels = channels
        self.position = PositionalConv(config.dim, config.position_kernel, config.position_groups)
        self.layers = make_layers(config)
        self.norm = nn.LayerNorm(config.dim)

    def convolve(self, x: Tensor, frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(B, F, C) -> (B, F', D) and its valid frames."""
        for conv in self.convs:
            x = conv(x, frames)
            stride = cast(NormedConv, conv).conv.stride[0]
            frames = None if frames is None else (frames + stride - 1) // stride
        return x, frames

    def transform(self, x: Tensor, frames: Tensor | None) -> tuple[list[Tensor], Tensor]:
        """(B, F, D) -> the L + 1 hidden states, and the last after the final layer norm."""
        attend = None
        if frames is not None:
            valid = frame_mask(frames, x.shape[1])
            x = x.masked_fill(~valid[:, :, None], 0.0)
            attend = valid[:, None, None, :]
        x = x + self.position(x)
        hidden_states = run_layers(self.layers, x, attend, self.config, training=self.training)
        return hidden_states, self.norm(hidden_states[-1])


class SpiralEncoder(Encoder):
    """SPIRAL without its heads of pre-training.

    `hidden_states` are those of block 2; `cnn` is the output of its convolutions.

    Example:
        >>> encoder = SpiralEncoder.from_preset("mini").eval()
        >>> out = encoder(torch.randn(2, 16_000), torch.tensor([16_000, 12_000]))
        >>> len(out.hidden_states), out.lengths.tolist()
        (5, [13, 10])
    """

    config: SpiralConfig
    presets = PRESETS

    mask_embedding: Tensor

    def __init__(self, config: SpiralConfig):
        super().__init__(config)
        first, second = config.transformers
        self.logmel = LogMel(config.stride, config.bands)
        self.block1 = SpiralBlock(config.bands, config.block1_conv_layers, first)
        self.block2 = SpiralBlock(first.dim, config.conv_layers, second)
        # One vector fills all masked and added frames: nearly zero, with just enough variance over the bands
        # for layer norm. Part of the model: pre-trained ones have learnt what it means.
        self.register_buffer("mask_embedding", _mask_embedding(config.bands))

    @override
    def first_layers(
        self, layers: int, *, layerdrop: float = 0.0, projection_dropout: float = 0.0, **regularisation: Any
    ) -> SpiralEncoder:
        """As every encoder: all of block 1, and the convolutions and first layers of block 2.

        Raises:
            ValueError: for what SPIRAL does not have: dropout after a projection, attention maps used twice.
        """
        if regularisation.get("reuse_attention"):
            raise ValueError("reuse_attention must be false: it is for students of HuBERT, this is a SPIRAL")
        if projection_dropout:
            raise ValueError("projection_dropout must be 0: SPIRAL has no projection behind its CNN")
        drops = {"layerdrop": layerdrop, "block1_layerdrop": layerdrop}
        made = SpiralEncoder(replace(self.config, layers=layers, **drops, **regularisation))
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
        """As every encoder. Masks apply to the log-mel features, (B, M) and (B, 128)."""
        features, frames = self.features(waveforms, lengths)
        if mask is not None or mask_channels is not None:
            features = self.masked(features, mask, mask_channels, mask_embedding)
        return self.encode(features, frames, return_cnn=return_cnn)

    def features(self, waveforms: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Log-mel features (B, M, 128) and their valid frames (B,); None if all M are valid in all rows."""
        self.check(waveforms, lengths)
        if lengths is None or all_full(waveforms, lengths):
            return self.logmel(waveforms, None)
        return self.logmel(waveforms, to_device(lengths, waveforms.device))

    def masked(
        self,
        features: Tensor,
        mask: Tensor | None,
        mask_channels: Tensor | None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """Features (B, M, 128) with time (B, M) and then channels (B, 128) masked."""
        if mask is not None:
            fill = self.mask_embedding if embedding is None else embedding
            features = torch.where(mask[:, :, None], fill.to(features.dtype), features)
        return features if mask_channels is None else features.masked_fill(mask_channels[:, None], 0.0)

    def encode(self, features: Tensor, frames: Tensor | None, *, return_cnn: bool = False) -> EncoderOutput:
        """Features (B, M, 128), M a multiple of `config.stride`, and their valid frames (B,) -> output."""
        x = features.to(self.block1.norm.weight.dtype)
        x, frames = self.block1.convolve(x, frames)
        _, x = self.block1.transform(scale_gradient(x, self.config.cnn_grad_scale), frames)
        cnn, frames = self.block2.convolve(x, frames)
        hidden_states, last = self.block2.transform(cnn, frames)
        if frames is None:
            frames = torch.full((len(last),), last.shape[1], dtype=torch.int64, device=last.device)
        return EncoderOutput(hidden_states, last, frames, cnn if return_cnn else None)


def _mask_embedding(bands: int) -> Tensor:
    """(128,), N(0, 0.0086^2), always the same."""
    if torch.empty(0).device.type == "meta":  # only the shape is wanted
        return torch.empty(bands)
    generator = torch.Generator().manual_seed(_MASK_SEED)
    return torch.randn(bands, generator=generator) * _MASK_DEVIATION


def beyond_weights(config: SpiralConfig) -> str:
    """What decides a model's features but is not visible in its weights.

    Part of the identity of everything made of features: the same weights give other features with other
    strides or heads.
    """
    found = {
        "strides": tuple(stride for _, _, stride in (*config.block1_conv_layers, *config.conv_layers)),
        "heads": (config.block1_heads, config.heads),
    }
    return " ".join(f"{name}={value}" for name, value in found.items())
