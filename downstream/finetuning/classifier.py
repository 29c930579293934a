"""The convolutional classifier that hears an encoder, and its loss.

Shapes: B utterances, F frames of the encoder, R upsampled frames for each of them, D features, W channels,
V outputs, U symbols of a transcript.

The paper (Huang et al. 2022, section 3.4 and appendix A): two convolutions of 512 channels and kernel 5, each
followed by layer norm and ReLU, and a linear layer; for characters, one more convolution before them from D
to R D channels, whose output becomes R frames. The reference implementation differs: dropout behind each
ReLU; layer norm only in the large model with characters; with characters three convolutions, and the
upsampling one has R W channels and is followed by layer norm, ReLU and dropout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distill.waveforms import frame_mask

_MOST_CONVOLUTIONS = 100
"""The paper has three at most; building ever more takes for ever."""


@dataclass(frozen=True, kw_only=True)
class ClassifierShape:
    """Everything that decides the shape of a `Classifier`, and its dropout."""

    dim: int
    """D, width of the encoder's output."""
    outputs: int
    """V, symbols with the blank."""
    upsampling: int = 1
    """R, frames that one frame of the encoder becomes."""
    upsampling_width: int | None = 512
    """Channels of an upsampled frame; None: D, as in the paper."""
    upsampling_norm: bool = True
    """Layer norm, ReLU and dropout behind the upsampling, as in the reference implementation."""
    convolutions: int = 2
    """Convolutions before the last linear layer."""
    width: int = 512
    """W, their channels."""
    kernel: int = 5
    """Their kernel, in frames, odd; also that of the upsampling."""
    layer_norm: bool = False
    """Layer norm before each ReLU."""
    dropout: float = 0.1
    """Probability, behind each ReLU."""

    def __post_init__(self) -> None:
        for name in ("dim", "outputs", "upsampling", "width", "kernel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.upsampling_width is not None and self.upsampling_width < 1:
            raise ValueError(f"upsampling_width must be at least 1, not {self.upsampling_width}")
        if not 0 <= self.convolutions <= _MOST_CONVOLUTIONS:
            raise ValueError(f"convolutions must be 0 to {_MOST_CONVOLUTIONS}, not {self.convolutions}")
        if not self.kernel % 2:
            raise ValueError(f"kernel must be odd, not {self.kernel}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


class ConvBlock(nn.Module):
    """Convolution, layer norm in place of its bias if wanted, ReLU, dropout. (B, F, C) -> (B, F, W)."""

    def __init__(self, in_channels: int, shape: ClassifierShape):
        super().__init__()
        self.conv = _conv(in_channels, shape.width, shape.kernel, bias=not shape.layer_norm)
        self.norm = nn.LayerNorm(shape.width) if shape.layer_norm else None
        self.dropout = nn.Dropout(shape.dropout)

    @override
    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """`valid` (B, F): padded frames are silence to the convolution, whatever they hold."""
        x = _convolve(self.conv, x, valid)
        return self.dropout(F.relu(x if self.norm is None else self.norm(x)))


class Upsampling(nn.Module):
    """One frame becomes R: a convolution whose channels are cut into R frames. (B, F, D) -> (B, R F, W)."""

    def __init__(self, shape: ClassifierShape):
        super().__init__()
        self.factor = shape.upsampling
        self.width = shape.upsampling_width or shape.dim
        self.conv = _conv(shape.dim, self.factor * self.width, shape.kernel)
        self.norm = nn.LayerNorm(self.width) if shape.upsampling_norm else None
        self.dropout = nn.Dropout(shape.dropout)

    @override
    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        x = _convolve(self.conv, x, valid).unflatten(2, (self.factor, self.width)).flatten(1, 2)
        return x if self.norm is None else self.dropout(F.relu(self.norm(x)))


class Classifier(nn.Module):
    """From an encoder's frames to log-probabilities of symbols.

    Example:
        >>> classifier = Classifier(ClassifierShape(dim=768, outputs=29, upsampling=4, convolutions=3))
        >>> log_probs, frames = classifier(torch.zeros(2, 10, 768), torch.tensor([10, 7]))
        >>> tuple(log_probs.shape), frames.tolist()
        ((2, 40, 29), [40, 28])
    """

    def __init__(self, shape: ClassifierShape):
        super().__init__()
        self.shape = shape
        self.upsampling = Upsampling(shape) if shape.upsampling > 1 else None
        width = shape.dim if self.upsampling is None else self.upsampling.width
        widths = [width, *[shape.width] * shape.convolutions]
        self.convolutions = nn.ModuleList(ConvBlock(width, shape) for width in widths[:-1])
        self.output = nn.Linear(widths[-1], shape.outputs)

    @override
    def forward(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, D), (B,) valid frames -> (B, R F, V) log-probabilities in float32, (B,) valid frames."""
        x, valid = features, frame_mask(frames, features.shape[1])
        if self.upsampling is not None:
            x = self.upsampling(x, valid)
            frames = frames * self.shape.upsampling
            valid = frame_mask(frames, x.shape[1])
        for block in self.convolutions:
            x = block(x, valid)
        return self.output(x).float().log_softmax(2), frames


def _conv(in_channels: int, channels: int, kernel: int, *, bias: bool = True) -> nn.Conv1d:
    conv = nn.Conv1d(in_channels, channels, kernel, padding=kernel // 2, bias=bias)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return conv


def _convolve(conv: nn.Conv1d, x: Tensor, valid: Tensor) -> Tensor:
    """(B, F, C), (B, F) -> (B, F, W); padded frames enter as zeros."""
    return conv(x.masked_fill(~valid[..., None], 0.0).transpose(1, 2)).transpose(1, 2)


def ctc_losses(
    log_probs: Tensor, frames: Tensor, targets: Tensor, target_lengths: Tensor, *, blank: int = 0
) -> Tensor:
    """CTC of each utterance, summed over its transcript; 0 where no alignment is possible. (B,), float32.

    Args:
        log_probs: (B, F, V).
        frames: (B,) valid frames.
        targets: (B, U) symbols, padded.
        target_lengths: (B,) valid symbols.
        blank: number of the blank.
    """
    with torch.autocast(log_probs.device.type, enabled=False):
        return F.ctc_loss(
            log_probs.float().transpose(0, 1),
            targets,
            frames,
            target_lengths,
            blank=blank,
            reduction="none",
            zero_infinity=True,
        )


def frames_needed(target: Sequence[int]) -> int:
    """The fewest frames that CTC can align a transcript with: one a symbol, one between two equal ones."""
    return len(target) + sum(a == b for a, b in itertools.pairwise(target))
