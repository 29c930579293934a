"""Architectures: read off weights, held against what a file says, and made into a configuration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from distill.encoder import EncoderConfig
from distill.errors import CheckpointError, first_line
from distill.hubert import HubertConfig
from distill.spiral.encoder import SpiralConfig
from distill.student import FAMILIES, config_of

STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Of the seven convolutions of every published HuBERT; weights do not tell."""
KERNELS = (10, 3, 3, 3, 3, 2, 2)
"""Of the same."""

_POSITION = "position.conv.parametrizations.weight"
_OWN = ("cnn_grad_scale", "normalize_input")


def architecture(
    state: Mapping[str, Tensor], strides: Sequence[int] | None, source: object
) -> dict[str, Any]:
    """The fields of `HubertConfig` that the weights decide.

    Args:
        state: an encoder's weights in our names.
        strides: of the convolutions, in samples; None if the file does not say: those of every published
            HuBERT, if its kernels are theirs as well.
        source: the checkpoint, for the message.

    Raises:
        CheckpointError: if essential weights are missing or misshapen.
    """
    assumed = strides is None
    strides = STRIDES if strides is None else strides
    try:
        convolutions = []
        while (weight := state.get(f"cnn.{len(convolutions)}.conv.weight")) is not None:
            convolutions.append((weight.shape[0], weight.shape[2]))
        if len(convolutions) != len(strides):
            raise CheckpointError(
                f"{source} has {len(convolutions)} convolutions but {len(strides)} strides are known, "
                "expected the seven of HuBERT"
            )
        kernels = tuple(kernel for _, kernel in convolutions)
        if assumed and kernels != KERNELS:
            raise CheckpointError(
                f"{source} does not state the strides of its convolutions, and its kernels {kernels} are not "
                f"those of HuBERT {KERNELS}: the frame rate is unknown"
            )
        dim = state["projection.weight"].shape[0]
        position = state[f"{_POSITION}.original1"]  # (D, D / groups, kernel)
        return {
            "conv_layers": tuple((*conv, stride) for conv, stride in zip(convolutions, strides, strict=True)),
            "conv_norm": "layer" if "cnn.1.norm.weight" in state else "group",
            "conv_bias": "cnn.0.conv.bias" in state,
            "projection_norm": "projection_norm.weight" in state,
            "dim": dim,
            "layers": len({key.split(".")[1] for key in state if key.startswith("layers.")}),
            "ffn_dim": state["layers.0.ffn_in.weight"].shape[0],
            "position_kernel": position.shape[2],
            "position_groups": dim // position.shape[1],
            "relative_buckets": len(state.get("relative.embedding.weight", ())),
        }
    except KeyError as error:
        raise CheckpointError(f"{source} is not a complete HuBERT: {error.args[0]} is missing") from None
    except (IndexError, ZeroDivisionError):
        raise CheckpointError(f"{source} is not a HuBERT: its weights have other shapes") from None


def compare(stated: Mapping[str, Any], found: Mapping[str, Any], source: object, where: str) -> None:
    """Check that the weights are those of the model that a file describes.

    Args:
        stated: the description, in the format's own words; what it leaves out or has as None is not compared.
        found: the same of the model that the weights make.
        source: the checkpoint, for the message.
        where: in the file the description is, for the message.

    Raises:
        CheckpointError: naming what differs.
    """
    wrong = [
        f"{key} is {_short(stated[key])} in {where} but {_short(value)} by the weights"
        for key, value in found.items()
        if stated.get(key) is not None and _plain(stated[key]) != _plain(value)
    ]
    if wrong:
        raise CheckpointError(
            f"{source}: {'; '.join(wrong[:3])}: weights are missing or too many, or the description is of "
            "another model; get both from one place, or correct the description"
        )


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_types(fields: Mapping[str, Any], source: object) -> None:
    """Check that values read from a file have the types of a configuration's fields.

    Raises:
        CheckpointError: naming the first unknown field or wrong value, or the family if that is unknown.
    """
    family = fields.get("family", "hubert")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{source} is of the unknown family {ascii(family)[:40]}, expected {' or '.join(FAMILIES)}: was "
            "it written by a later version?"
        )
    fields = {name: value for name, value in fields.items() if name != "family"}
    defaults = {field.name: field.default for field in dataclasses.fields(FAMILIES[family][0])}
    for name, value in fields.items():
        default = defaults.get(name)
        if default is None:
            raise CheckpointError(
                f"{source} has the unknown field {name!r}: was it written by a later version?"
            )
        if isinstance(default, tuple):
            good = isinstance(value, list | tuple) and all(
                isinstance(layer, list | tuple) and len(layer) == 3 and all(_positive(item) for item in layer)
                for layer in value
            )
        elif isinstance(default, float):
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        elif isinstance(default, int) and not isinstance(default, bool):
            good = _positive(value) or (type(value) is int and value == default)  # 0: none
        else:
            good = isinstance(value, type(default))
        if not good:
            raise CheckpointError(
                f"{source}: {name} is {str(value)[:40]!r}, expected a value such as {default!r}"
            )


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def make_config(fields: Mapping[str, Any], source: object) -> HubertConfig | SpiralConfig:
    """The configuration of values read from a file.

    Args:
        fields: as `EncoderConfig.to_dict` gives them; without a "family", of HuBERT.
        source: the checkpoint, for the message.

    Raises:
        CheckpointError: for unknown fields and for values that no model can have.
    """
    check_types(fields, source)
    try:
        config = config_of(fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source} describes an impossible model: {first_line(error)}") from None
    assert isinstance(config, HubertConfig | SpiralConfig)
    return config


def make_hubert_config(fields: Mapping[str, Any], source: object) -> HubertConfig:
    """`make_config` for the formats of programs that have no other family.

    Raises:
        CheckpointError: as `make_config`.
    """
    config = make_config({"family": "hubert", **fields}, source)
    assert isinstance(config, HubertConfig)
    return config


def check_depth(config: EncoderConfig, state: Mapping[str, Any], source: object) -> None:
    """Check that the weights are as deep as described, before a model of any size is built.

    Args:
        config: as described.
        state: an encoder's weights in our names.
        source: the checkpoint, for the message.

    Raises:
        CheckpointError: if they are not.
    """
    depths = {"": config.layers}
    if isinstance(config, SpiralConfig):
        depths = {"block1.": config.block1_layers, "block2.": config.layers}
    for block, layers in depths.items():
        start, end = f"{block}layers.", ".value.weight"  # every layer has one
        found = sum(key.startswith(start) and key.endswith(end) for key in state)
        if found != layers:
            where = f" in block {block[-2]}" if block else ""
            raise CheckpointError(f"{source} is described with {layers} layers{where} but holds {found}")
    stacks: dict[str, Sequence[Any]] = {}
    if isinstance(config, SpiralConfig):
        stacks = {"block1.convs.": config.block1_conv_layers, "block2.convs.": config.conv_layers}
    elif isinstance(config, HubertConfig):
        stacks = {"cnn.": config.conv_layers}
    for start, layers in stacks.items():
        found = sum(key.startswith(start) and key.endswith(".conv.weight") for key in state)
        if found != len(layers):
            raise CheckpointError(f"{source} is described with {len(layers)} convolutions but holds {found}")


def own_section(
    config: HubertConfig,
    provenance: Mapping[str, Any] | None,
    fields: Sequence[str] = ("cnn_grad_scale",),
) -> dict[str, Any]:
    """Our "distill" section in another program's file: the provenance, and what is not kept elsewhere.

    Args:
        config: of the model.
        provenance: plain values.
        fields: of the configuration that the other program does not keep, some of `_OWN`.
    """
    return {**(provenance or {}), **{name: getattr(config, name) for name in fields}}


def split_own(section: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two parts of what `own_section` made.

    Args:
        section: as read; files that others wrote have none, or something else.

    Returns:
        The provenance, and the fields of `HubertConfig`, to be checked by `make_config`.
    """
    own = section if isinstance(section, dict) else {}
    provenance = {key: value for key, value in own.items() if key not in _OWN}
    return provenance, {key: value for key, value in own.items() if key in _OWN}
