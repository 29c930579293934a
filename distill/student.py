"""The student: the first layers of its teacher's encoder, and heads that predict deeper ones.

It may also have a lighter front end than its teacher, be thinner, and predict layer from layer; what the
teacher's weights do not fit starts at random then.

Shapes: B utterances, T samples at 16 kHz, F frames, N prediction heads, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from distill.encoder import Encoder, EncoderConfig
from distill.hubert import FRONTS, HubertConfig, HubertEncoder, mel_convolutions
from distill.spiral.encoder import SpiralConfig, SpiralEncoder

FAMILIES: dict[str, tuple[type[Any], type[Encoder]]] = {
    "hubert": (HubertConfig, HubertEncoder),
    "spiral": (SpiralConfig, SpiralEncoder),
}
"""By `EncoderConfig.family`: classes of configuration and encoder."""

PARTS = {
    "cnn": "convolutions",
    "projection": "projection",
    "position": "positional convolution",
    "norm": "layer norm",
    "relative": "position bias",
    "layers": "transformer layers",
}
"""Parts of an encoder, by the beginnings of their weights' names, as people call them."""


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

    @property
    def matrices(self) -> list[Tensor]:
        """The weights that frames are multiplied by."""
        return [self.expand.weight, self.weight]


class LayerHeads(nn.Module):
    """One linear per target, each from a layer of its own. (B, N, F, D) -> (B, N, F, D_target).

    As in FitHuBERT (Lee et al. 2022, arXiv 2207.00555) and ARMHuBERT, whose students are thinner than their
    teachers and are compared layer by layer.
    """

    def __init__(self, dim: int, target_dim: int, n_targets: int):
        super().__init__()
        self.n_targets = n_targets
        self.weight = nn.Parameter(torch.empty(n_targets, dim, target_dim))
        self.bias = nn.Parameter(torch.empty(n_targets, 1, target_dim))
        bound = dim**-0.5  # as nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    @override
    def forward(self, layers: Tensor) -> Tensor:
        return layers @ self.weight + self.bias

    @property
    def matrices(self) -> list[Tensor]:
        """The weights that frames are multiplied by."""
        return [self.weight]


class Student(nn.Module):
    """A small encoder F and its prediction heads p_i (Eq. 1).

    Example:
        >>> teacher = HubertEncoder.from_preset("mini")
        >>> student = Student.from_teacher(teacher, layers=2, targets=(2, 4, 6))
        >>> student(torch.randn(1, 16_000)).predictions.shape
        torch.Size([1, 3, 49, 128])
    """

    random_parts: tuple[str, ...] = ()
    """`PARTS` that `from_teacher` could not start with the teacher's weights."""

    def __init__(
        self,
        config: EncoderConfig,
        targets: Sequence[int],
        target_dim: int,
        sources: Sequence[int] | None = None,
    ):
        """`sources`: layer to layer, the student's layer that predicts each target, 0 is its input."""
        super().__init__()
        self.targets = tuple(targets)
        self.target_dim = target_dim
        self.sources = None if sources is None else tuple(sources)
        self.encoder = encoder_of(config)
        kind = PredictionHeads if sources is None else LayerHeads
        self.heads = kind(config.dim, target_dim, len(self.targets))

    @classmethod
    def from_teacher(
        cls,
        teacher: Encoder,
        *,
        layers: int = 2,
        targets: Sequence[int] | Literal["all"] = (4, 8, 12),
        layer_to_layer: bool = False,
        front: str = "cnn",
        front_channels: int | None = None,
        dim: int | None = None,
        heads: int | None = None,
        ffn_dim: int | None = None,
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
        first layers of block 2. Parts of another shape than the teacher's start at random, and
        `random_parts` names them.

        Args:
            teacher: the model to distil.
            layers: transformer layers of the student.
            targets: layers of the teacher that the heads predict, 1 is the first; "all": every one, layer to
                layer.
            layer_to_layer: predict layer t of the teacher's L from layer t L_student / L of the student, by a
                linear each; `targets` may have 0 then, the transformer's input. Otherwise all targets are
                predicted from the last layer (Eq. 1).
            front: one of `FRONTS`: see `front_fields`.
            front_channels: of front "mel"; default: those of the teacher's CNN.
            dim: D of the student; default: the teacher's.
            heads: attention heads; default: of the teacher's size, or as many as the teacher's.
            ffn_dim: of the feed-forward blocks; default: 4 D, or the teacher's if D is.
            dropout: of transformer input and residual branches.
            attention_dropout: of attention weights.
            activation_dropout: inside the feed-forward blocks.
            projection_dropout: after the projection; DistilHuBERT has none there, whatever its teacher has.
            cnn_grad_scale: factor on the gradient that reaches the CNN.
            activation_checkpointing: trade time for memory in the student's layers.
            reuse_attention: layers 2, 4, ... attend as the layer before, without query and key projections.

        Raises:
            ValueError: if the teacher has fewer layers than asked for, or its shape allows no such student.
        """
        depth = teacher.config.layers
        targets = "all" if tuple(targets) == ("all",) else targets  # as recipes have it
        if not 1 <= layers <= depth:
            raise ValueError(f"layers is {layers}, but the teacher has {depth}: choose 1 to {depth}")
        predicted = check_targets(targets, layers, depth, layer_to_layer=layer_to_layer)
        sources = None
        if layer_to_layer or targets == "all":
            sources = [layer * layers // depth for layer in predicted]
        shape = shape_fields(
            teacher.config, front=front, front_channels=front_channels, dim=dim, heads=heads, ffn_dim=ffn_dim
        )
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
            **shape,
        )
        student = cls(encoder.config, predicted, teacher.config.dim, sources)
        if isinstance(teacher, HubertEncoder):
            student.random_parts = tuple(teacher.unlike(encoder))
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
        return StudentOutput(self.predict(out.features), out.hidden_states, z, out.lengths, out.cnn)

    def predict(self, features: Sequence[Tensor] | Mapping[int, Tensor]) -> Tensor:
        """The heads' predictions (B, N, F, D_target) from the encoder's `features`, each (B, F, D)."""
        if self.sources is None:
            return self.heads(features[self.encoder.config.layers])
        return self.heads(torch.stack([features[layer] for layer in self.sources], dim=1))

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` needs to build the same architecture; plain values, for JSON."""
        return {
            "encoder": self.encoder.config.to_dict(),
            "targets": list(self.targets),
            "target_dim": self.target_dim,
            **({} if self.sources is None else {"sources": list(self.sources)}),
        }

    @classmethod
    def from_dict(cls, description: dict[str, Any]) -> Student:
        """The architecture that `to_dict` described, with random weights."""
        config, sources = config_of(description["encoder"]), description.get("sources")
        return cls(config, description["targets"], description["target_dim"], sources)


def check_targets(
    targets: Sequence[int] | Literal["all"], layers: int, depth: int, *, layer_to_layer: bool = False
) -> tuple[int, ...]:
    """The teacher layers that a student predicts.

    Args:
        targets: by number, or "all".
        layers: of the student.
        depth: layers of the teacher.
        layer_to_layer: whether each is predicted from the student's layer at the same relative depth.

    Raises:
        ValueError: if the teacher has no such layer, or the student none at that depth.
    """
    step = depth // gcd(layers, depth)  # of the teacher's layers that a layer of the student stands for
    possible = ", ".join(map(str, range(step, depth + 1, step)))
    if targets == "all":
        if step != 1:
            raise ValueError(
                f"targets all: a student of {layers} layers has none for each of the teacher's {depth}: set "
                f"layers={depth}, or layer_to_layer=true and targets from {possible}"
            )
        return tuple(range(1, depth + 1))
    assert not isinstance(targets, str)
    if not targets:
        raise ValueError("targets is empty: name at least one teacher layer to predict")
    if twice := sorted({layer for layer in targets if tuple(targets).count(layer) > 1}):
        raise ValueError(f"targets {tuple(targets)}: {', '.join(map(str, twice))} is there twice")
    first = 0 if layer_to_layer else 1
    wrong = [layer for layer in targets if not first <= layer <= depth]
    if wrong:
        missing = ", ".join(map(str, wrong))
        raise ValueError(f"targets {tuple(targets)}: the teacher has layers 1 to {depth}, not {missing}")
    if layer_to_layer and (between := [layer for layer in targets if layer % step]):
        raise ValueError(
            f"targets {tuple(targets)}: layer to layer, a student of {layers} layers has none at the depth "
            f"of the teacher's {', '.join(map(str, between))}: choose from 0, {possible}, or other layers"
        )
    if layer_to_layer and depth not in targets:
        raise ValueError(
            f"targets {tuple(targets)}: layer to layer, the student's last layer, whose output is used, "
            f"would learn nothing: add the teacher's last layer, {depth}"
        )
    return tuple(targets)


def shape_fields(
    teacher: EncoderConfig,
    *,
    front: str = "cnn",
    front_channels: int | None = None,
    dim: int | None = None,
    heads: int | None = None,
    ffn_dim: int | None = None,
) -> dict[str, Any]:
    """What a student's shape changes in its teacher's configuration; arguments as `Student.from_teacher`.

    Raises:
        ValueError: saying what does not go with the teacher.
    """
    changed = {"front_channels": front_channels, "dim": dim, "heads": heads, "ffn_dim": ffn_dim}
    stated = [name for name, value in changed.items() if value is not None]
    if not isinstance(teacher, HubertConfig):
        if stated or front != "cnn":
            name = stated[0] if front == "cnn" else f"front {front}"
            raise ValueError(f"{name} is for students of HuBERT: leave it out, the teacher is a SPIRAL")
        return {}
    found = front_fields(teacher, front, front_channels)
    if dim is not None and dim != teacher.dim:
        found |= {"dim": dim, "ffn_dim": 4 * dim, "heads": _heads(teacher, dim) if heads is None else heads}
    if heads is not None:
        found["heads"] = heads
    if ffn_dim is not None:
        found["ffn_dim"] = ffn_dim
    return found


def _heads(teacher: HubertConfig, dim: int) -> int:
    """Attention heads of the teacher's size, or as many as the teacher has."""
    size = teacher.dim // teacher.heads
    if dim % size == 0:
        return dim // size
    if dim % teacher.heads == 0:
        return teacher.heads
    raise ValueError(
        f"dim {dim} is neither a multiple of the teacher's {teacher.heads} heads nor of their size {size}: "
        "set heads"
    )


def front_fields(teacher: HubertConfig, front: str, channels: int | None = None) -> dict[str, Any]:
    """What a student's front end changes in its teacher's configuration.

    * "cnn": nothing.
    * "slim": C / 4, C / 2 and 27 C / 32 channels where the teacher has C: with its 512 the convolutions of
      ARMHuBERT-S (Jang et al. 2023, arXiv 2305.11685), two of which have a kernel of 1 and widen the signal.
    * "mel": two convolutions over log-mel features instead (laid out as in Whisper, Radford et al. 2022),
      with a layer norm each.

    Args:
        teacher: its configuration.
        front: one of `FRONTS`.
        channels: of "mel"; default: those of the teacher's CNN, whose projection then fits.

    Raises:
        ValueError: if the teacher's frames are not those of `front`.
    """
    if front not in FRONTS:
        raise ValueError(f"front must be one of {', '.join(FRONTS)}, not {front!r}")
    if channels is not None and front != "mel":
        raise ValueError(f"front_channels is for front mel, not {front}")
    if front == "cnn":
        return {}
    if teacher.framing != HubertConfig().framing or teacher.front != "cnn":
        raise ValueError(f"front {front} is for teachers with HuBERT's seven convolutions: use front cnn")
    width = teacher.conv_layers[-1][0]
    if front == "mel":
        layers = mel_convolutions(width if channels is None else channels)
        normed = {"conv_norm": "layer", "conv_bias": True, "normalize_input": False}
        return {"front": "mel", "conv_layers": layers, **normed}
    narrow, middle, wide = (max(part * width // 32, 1) for part in (8, 16, 27))
    first, *rest = teacher.framing
    layers = [(narrow, *first), (middle, 1, 1), *((middle, *shape) for shape in rest[:4])]
    return {"conv_layers": (*layers, (wide, 1, 1), *((wide, *shape) for shape in rest[4:]))}
