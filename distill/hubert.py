"""HuBERT: a waveform in, the hidden states of every transformer layer out. One model for teacher and student.

Shapes: B utterances, T samples at 16 kHz, F frames (20 ms in published ones), C channels of the CNN,
D features, L layers.

The architecture is Hsu et al. 2021 (HuBERT). Two variants exist and both are here: *base* (group norm in the
first convolution, layer norm after each residual) and *large* (layer norm in every convolution, layer norm
before each residual, waveforms normalised to zero mean and unit variance). WavLM (Chen et al. 2022) is the
same with a gated relative position bias in its attention (`relative_buckets`).

An utterance gets the same features alone and inside any padded batch: statistics over time (the group norm,
the waveform normalisation) run over its own samples, padded frames are zero before the positional convolution
and are never attended to. Values at padded frames of the output mean nothing.

Students may have another front end than the seven convolutions over samples: see `distill.student`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distill.convolution import ConvLayer, PositionalConv
from distill.encoder import (
    MOST_CONVOLUTIONS,
    Count,
    Encoder,
    EncoderOutput,
    scale_gradient,
)
from distill.transformer import RelativePositions, TransformerConfig, make_layers, run_layers
from distill.waveforms import all_full, frame_mask, normalize_waveforms, to_device
from distill.waveforms.logmel import MOST_BANDS, LogMel

INHERITED = (
    *("front", "mel_bands", "conv_layers", "conv_norm", "conv_bias", "normalize_input"),
    *("dim", "heads", "ffn_dim", "pre_norm", "position_kernel", "position_groups"),
    *("relative_buckets", "relative_distance"),
)
"""What a student takes from its teacher's configuration: the shapes of the weights that it starts with, and
how they are used. Dropout and the like are its own."""
_MEANING = {"cnn": ("front", "conv_layers", "conv_norm"), "layers": ("heads", "pre_norm")}
"""By part of an encoder: what must be the same for weights of one shape to compute the same."""
FRONTS = ("cnn", "slim", "mel")
"""Front ends of students: see `distill.student.front_fields`."""
_LATER = ("front", "mel_bands", "reuse_attention", "relative_buckets", "relative_distance")
"""Fields that earlier versions refuse: files have them only where they differ from the defaults."""


def _conv_stack(channels: int) -> tuple[tuple[int, int, int], ...]:
    """The seven (channels, kernel, stride) of wav2vec 2.0 and HuBERT: 400 samples seen, a hop of 320."""
    return ((channels, 10, 5), *[(channels, 3, 2)] * 4, *[(channels, 2, 2)] * 2)


@dataclass(frozen=True, kw_only=True)
class HubertConfig:
    """Everything that decides the shape and the training-time noise of a `HubertEncoder`."""

    family: ClassVar[str] = "hubert"

    front: Literal["cnn", "mel"] = "cnn"
    """What the convolutions hear: "cnn", the samples; "mel", log-mel features of 10 ms (`LogMel`)."""
    mel_bands: int = 80
    """Bands of these features."""
    conv_layers: tuple[tuple[int, int, int], ...] = _conv_stack(512)
    """(channels, kernel, stride) of each convolution, in samples; of "mel" in its frames of 10 ms."""
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
    relative_buckets: int = 0
    """Buckets of a gated relative position bias: the model is a WavLM (Chen et al. 2022); 0: none."""
    relative_distance: int = 800
    """Frames from which on all distances share a bucket of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "conv_layers", tuple(tuple(layer) for layer in self.conv_layers))
        if not 1 <= len(self.conv_layers) <= MOST_CONVOLUTIONS:
            raise ValueError(
                f"there must be 1 to {MOST_CONVOLUTIONS} convolutions, not {len(self.conv_layers)}"
            )
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"conv_norm must be 'group' or 'layer', not {self.conv_norm!r}")
        if self.front not in ("cnn", "mel"):
            raise ValueError(f"front must be 'cnn' or 'mel', not {self.front!r}")
        if self.front == "mel":
            self._check_mel()
        if not 0.0 <= self.projection_dropout < 1.0:
            raise ValueError(f"projection_dropout must be in [0, 1), not {self.projection_dropout}")
        _ = self.transformer  # checks the rest

    def _check_mel(self) -> None:
        shape = [(kernel, stride) for _, kernel, stride in self.conv_layers]
        if shape != [(kernel, stride) for _, kernel, stride in mel_convolutions(1)]:
            raise ValueError(f"front 'mel' has two convolutions, (C, 3, 1) and (C, 3, 2): not {shape}")
        if self.normalize_input:
            raise ValueError("front 'mel' normalises its features: normalize_input must be false")
        if not 1 <= self.mel_bands <= MOST_BANDS:
            raise ValueError(f"mel_bands must be 1 to {MOST_BANDS}, not {self.mel_bands}")

    @property
    def model_name(self) -> str:
        """What people call such models."""
        return "WavLM" if self.relative_buckets else "HuBERT"

    @property
    def transformer(self) -> TransformerConfig:
        """The part behind the projection."""
        return TransformerConfig(
            **{field.name: getattr(self, field.name) for field in fields(TransformerConfig)}
        )

    @property
    def framing(self) -> tuple[tuple[int, int], ...]:
        """(kernel, stride), in samples, of convolutions that make the same frames.

        Those of "mel" are as many as those of HuBERT's CNN, each 2.5 ms before its twin.
        """
        layers = self.conv_layers if self.front == "cnn" else _conv_stack(1)
        return tuple((kernel, stride) for _, kernel, stride in layers)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees: 400 for every HuBERT. Shorter waveforms have no frame at all.

        Those of "mel" stand for as many, and see 320 before these and 240 behind.
        """
        field = 1
        for kernel, stride in reversed(self.framing):
            field = (field - 1) * stride + kernel
        return field

    @property
    def middle(self) -> int:
        """Sample in the middle of what the first frame sees: 200 for every HuBERT."""
        return self.hop // 2 if self.front == "mel" else self.receptive_field // 2

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 320 (20 ms) for every published HuBERT of 50 Hz."""
        return math.prod(stride for _, stride in self.framing)

    @property
    def min_samples(self) -> int:
        """Samples of the shortest utterance that can be encoded: it has one frame."""
        return self.receptive_field

    def mask_shape(self, n_samples: int) -> tuple[int, int]:
        """Frames and features of the transformer's input, where masks apply."""
        return self.frames(n_samples), self.dim

    def frames(self, n_samples: Count) -> Count:
        """Number of frames that `n_samples` samples give: one int, or a tensor or array of them."""
        for kernel, stride in self.framing:
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        usual = {field.name: field.default for field in fields(self) if field.name in _LATER}
        return {name: value for name, value in asdict(self).items() if usual.get(name, ...) != value}


_LARGE = HubertConfig(
    conv_norm="layer", normalize_input=True, dim=1024, layers=24, heads=16, ffn_dim=4096, pre_norm=True
)
# Small enough to be pre-trained on two CPU cores in minutes, and then never overfitted: no dropout.
_MINI = HubertConfig(
    conv_layers=_conv_stack(32),
    dim=128,
    layers=6,
    heads=4,
    ffn_dim=512,
    position_kernel=32,
    position_groups=8,
    dropout=0.0,
    attention_dropout=0.0,
)
PRESETS: dict[str, HubertConfig] = {
    "base": HubertConfig(),
    "large": _LARGE,
    "mini": _MINI,
    "wavlm_base": HubertConfig(relative_buckets=320),
    "wavlm_large": replace(_LARGE, relative_buckets=320),
    "wavlm_mini": replace(_MINI, relative_buckets=32, relative_distance=80),
}


def mel_convolutions(channels: int) -> tuple[tuple[int, int, int], ...]:
    """From log-mel frames of 10 ms to frames of 20 ms: (channels, kernel, stride)."""
    return (channels, 3, 1), (channels, 3, 2)


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
        mel = config.front == "mel"
        self.logmel = LogMel(1, config.mel_bands, per_band=False) if mel else None
        in_channels = config.mel_bands if mel else 1
        for index, (channels, kernel, stride) in enumerate(config.conv_layers):
            norm = "none" if config.conv_norm == "group" and index else config.conv_norm
            self.cnn.append(
                ConvLayer(in_channels, channels, kernel, stride, bias=config.conv_bias, norm=norm)
            )
            in_channels = channels
        self.projection_norm = nn.LayerNorm(in_channels) if config.projection_norm else None
        self.projection = nn.Linear(in_channels, config.dim)
        self.position = PositionalConv(config.dim, config.position_kernel, config.position_groups)
        self.relative = RelativePositions(config.transformer) if config.relative_buckets else None
        self.norm = nn.LayerNorm(config.dim)  # before the layers (base) or after them (large)
        self.layers = make_layers(config.transformer)

    @override
    def first_layers(self, layers: int, **changes: Any) -> HubertEncoder:
        """As every encoder; the layer norm before the projection is left out (DistilHuBERT has none).

        Parts that `changes` give another shape (`unlike`) start at random.
        """
        inherited = {name: getattr(self.config, name) for name in INHERITED}
        if self.config.reuse_attention and layers > 1 and not changes.get("reuse_attention"):
            raise ValueError(
                "the teacher's layer 2 has no query and key projections to start from (its reuse_attention "
                "is on): set student.reuse_attention=true"
            )
        made = HubertEncoder(
            HubertConfig(**inherited | {"layers": layers, "projection_norm": False} | changes)
        )
        random = self.unlike(made)
        ours = self.state_dict()
        fitting = {name: ours[name] for name in made.state_dict() if name.partition(".")[0] not in random}
        made.load_state_dict(fitting, strict=False)
        return made

    def unlike(self, other: Encoder) -> list[str]:
        """Parts of another encoder that the weights of this one do not fit, or would mean something else in.

        By the beginnings of their names: "cnn", "projection", "position", "norm", "relative", "layers".
        """
        ours = {name: value.shape for name, value in self.state_dict().items()}
        parts = {
            part
            for part, names in _MEANING.items()
            if any(getattr(self.config, name) != getattr(other.config, name) for name in names)
        }
        parts |= {
            name.partition(".")[0]
            for name, value in other.state_dict().items()
            if ours.get(name) != value.shape
        }
        other_heads = "layers" in parts and self.relative is not None
        return sorted(parts | {"relative"} if other_heads else parts)

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
        if self.logmel is not None:
            return self._convolved_mels(self.logmel, waveforms, lengths)
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

    def _convolved_mels(self, logmel: LogMel, waveforms: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, T) -> (B, F, C).

        Frame j is centred on mel frame 2 j + 1 and sees 2 j - 1 to 2 j + 3; zeros stand in front of the first
        and behind the last mel frame. Of T samples there are at least 2 F + 1: what is behind the valid
        ones of an utterance reaches none of its frames.
        """
        x, frames = logmel(waveforms, lengths)  # (B, M, bands), zero behind an utterance
        n_frames = x.shape[1]
        x = F.pad(x.to(self.projection.weight.dtype), (0, 0, 1, 1))
        first, second = self.cnn
        x = second(first(x, frames)[:, :n_frames], None if lengths is None else self.config.frames(lengths))
        n_frames = self.config.frames(waveforms.shape[1])
        if torch.compiler.is_compiling():  # of a slice the exporter would not know that it is not empty
            x = x.index_select(1, torch.arange(n_frames, device=x.device))
        else:
            x = x[:, :n_frames]
        return scale_gradient(x, self.config.cnn_grad_scale)

    def _transformer(self, x: Tensor, attend: Tensor | None) -> list[Tensor]:
        """(B, F, D) -> the L + 1 hidden states."""
        x = x + self.position(x)
        if not self.config.pre_norm:
            x = self.norm(x)
        relative = self.relative and self.relative(x.shape[1])  # once for all layers
        config = self.transformer_config
        return run_layers(self.layers, x, attend, config, training=self.training, relative=relative)


def beyond_weights(config: HubertConfig) -> str:
    """What decides a model's features but is not visible in its weights; "" where it is that of base.

    Part of the identity of everything made of features: the same weights give other features with other
    strides or heads, or with the waveforms normalised. Pre-norm models are named because features of their
    last layer were once taken before the final norm.
    """
    found = {
        "front": config.front,
        "strides": tuple(stride for _, _, stride in config.conv_layers),
        "head_dim": config.dim // config.heads,
        "normalize_input": config.normalize_input,
        "last_after_norm": config.pre_norm,
        "relative_distance": config.relative_distance,
    }
    usual = {
        "front": "cnn",
        "strides": tuple(stride for _, _, stride in HubertConfig().conv_layers),
        "head_dim": 64,
        "normalize_input": False,
        "last_after_norm": False,
        "relative_distance": 800,
    }
    return " ".join(f"{name}={value}" for name, value in found.items() if value != usual[name])
