"""What HuBERT and SPIRAL have in common, and all that the rest of the code needs to know of an encoder.

Shapes: B utterances, T samples at 16 kHz, F frames, D features, L layers, M units of a time mask, C channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn
from typing_extensions import override

from distill.waveforms import check_samples

if TYPE_CHECKING:
    import numpy as np

Count = TypeVar("Count", int, Tensor, "np.ndarray")
_Encoder = TypeVar("_Encoder", bound="Encoder")

MOST_CONVOLUTIONS = 100
"""One behind the other; published encoders have 7."""


class EncoderConfig(Protocol):
    """What may be asked of the configuration of any encoder."""

    family: ClassVar[str]
    """Which class of encoder: "hubert" or "spiral"."""

    @property
    def model_name(self) -> str:
        """What people call such models."""
        ...

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
    def middle(self) -> int:
        """Sample in the middle of what the first frame's convolutions see."""
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
