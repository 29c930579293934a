"""Weights: rename them, and fill models with them. Our names are those of an encoder's `state_dict()`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from distill.encoder import Encoder, EncoderConfig
from distill.errors import CheckpointError, first_line, listed
from distill.student import encoder_of

_INDEX = re.compile(r"\b(conv_layers|layers|cnn)\.(\d+)\b")
_PARALLEL = "module."
_COMPILED = "_orig_mod."
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_Model = TypeVar("_Model", bound=nn.Module)


def unwrapped(state: Mapping[Any, Any], source: object) -> dict[str, Any]:
    """Weights without what DataParallel, DDP and torch.compile put into their names.

    Args:
        state: the weights.
        source: the checkpoint, for the message.

    Raises:
        CheckpointError: if two weights have the same name then.
    """
    names = {key: str(key).replace(_COMPILED, "") for key in state}
    while names and all(name.startswith(_PARALLEL) for name in names.values()):
        names = {key: name.removeprefix(_PARALLEL) for key, name in names.items()}
    if len(set(names.values())) != len(names):
        twice = [name for name, count in Counter(names.values()).items() if count > 1]
        raise CheckpointError(f"{source} holds {listed(twice)} twice, once inside a wrapper")
    return {names[key]: value for key, value in state.items()}


def rename(state: Mapping[str, Any], names: Mapping[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights under other names.

    Args:
        state: the weights.
        names: old name -> new name, of modules or of single weights; `#` stands for the index of any layer.

    Returns:
        The renamed weights, and the names that the table does not know.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        index = _INDEX.search(key)
        pattern = _INDEX.sub(r"\1.#", key, count=1)
        module, _, leaf = pattern.rpartition(".")
        new = names.get(key) or names.get(pattern) or (f"{names[module]}.{leaf}" if module in names else None)
        if new is None or not isinstance(tensor, Tensor):
            unknown.append(key)
        else:
            renamed[new.replace("#", index[2] if index else "")] = tensor
    return renamed, unknown


def renamed(
    state: Mapping[str, Tensor],
    names: Mapping[str, str],
    source: object,
    *,
    of: str,
    besides: tuple[str, ...] = (),
    hint: str = "",
) -> dict[str, Tensor]:
    """`rename`, where whatever the table does not know makes it another model.

    Args:
        state: the weights.
        names: as in `rename`.
        source: the checkpoint, for the message.
        of: whose weights they should be, for the message.
        besides: beginnings of names that may stand beside them, and are left out.
        hint: what the message ends with.

    Raises:
        CheckpointError: naming the weights that are unknown.
    """
    found, unknown = rename(state, names)
    if unknown := [key for key in unknown if not key.startswith(besides)]:
        raise CheckpointError(f"{source} holds weights that {of} does not have: {listed(unknown)}{hint}")
    return found


def fill(make: Callable[[], _Model], state: Mapping[str, Any], source: object) -> _Model:
    """A model with the given weights, in float32 and in eval mode.

    Args:
        make: builds the architecture; runs without allocating or initialising anything.
        state: every weight of it, and no other; copied.
        source: the checkpoint, for the message.

    Raises:
        CheckpointError: if weights are missing, unexpected, of another shape, not finite, or quantised:
            integers and 8-bit numbers are not the weights without their scales.
    """
    try:
        with torch.device("meta"):
            model = make()
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{source} describes an impossible model: {first_line(error)}") from None
    expected = model.state_dict()
    quantised: list[str] = []
    problems = [f"{key} is missing" for key in expected if key not in state]
    problems += [f"{key} is unexpected" for key in state if key not in expected]
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            problems.append(f"{key} is not a tensor")
        elif key in expected and tensor.shape != expected[key].shape:
            problems.append(f"{key} is {tuple(tensor.shape)}, not {tuple(expected[key].shape)}")
        elif tensor.dtype not in _FLOATS:
            quantised.append(f"{key} is {str(tensor.dtype).removeprefix('torch.')}")
    if problems:
        raise CheckpointError(f"{source} does not fit its architecture: {listed(problems)}")
    if quantised:
        raise CheckpointError(
            f"{source} holds quantised weights, which are not read: {listed(quantised)}; take the checkpoint "
            "in 16 or 32 bit floating point that it was made from"
        )
    copies = {key: tensor.detach().to(torch.float32, copy=True).contiguous() for key, tensor in state.items()}
    check_finite(copies, source)
    model.load_state_dict(copies, assign=True)
    return model.eval()


def check_finite(state: Mapping[str, Tensor], source: object) -> None:
    """Check weights for NaN and infinity, in one pass over memory.

    Raises:
        CheckpointError: naming the tensors that have them.
    """
    bad = [
        key
        for key, tensor in state.items()
        if tensor.numel() and not all(value.isfinite() for value in torch.aminmax(tensor))
    ]
    if bad:
        raise CheckpointError(
            f"{source} holds weights that are NaN or infinite: {listed(bad)}; its training broke down or the "
            "file is damaged: take an earlier checkpoint, or get it again"
        )


def fill_encoder(config: EncoderConfig, state: Mapping[str, Tensor], source: object) -> Encoder:
    """`fill` for an encoder of any family."""
    return fill(lambda: encoder_of(config), state, source)
