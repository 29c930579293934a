"""What the formats share: renaming weights, reading architectures off them, filling models, writing files.

Our names are those of `HubertEncoder.state_dict()`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.atomic import atomic as whole
from distill.errors import CheckpointError, first_line, listed
from distill.hubert import HubertConfig, HubertEncoder

WAVLM = (
    "is a WavLM, whose attention has a gated relative position bias that this encoder does not have: "
    "expected a HuBERT or wav2vec 2.0"
)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
"""Of the seven convolutions of every published HuBERT; weights do not tell."""
KERNELS = (10, 3, 3, 3, 3, 2, 2)
"""Of the same."""

_INDEX = re.compile(r"\b(conv_layers|layers|cnn)\.(\d+)\b")
_POSITION = "position.conv.parametrizations.weight"
_OWN = ("cnn_grad_scale", "normalize_input")
_PARALLEL = "module."
_COMPILED = "_orig_mod."
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
        names: old name -> new name, of modules or of whole weights; `#` stands for the index of a layer.

    Returns:
        The renamed weights, and the names that the table does not know.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        index = _INDEX.search(key)
        pattern = _INDEX.sub(r"\1.#", key, count=1)
        module, _, leaf = pattern.rpartition(".")
        new = names.get(pattern) or (f"{names[module]}.{leaf}" if module in names else None)
        if new is None or not isinstance(tensor, Tensor):
            unknown.append(key)
        else:
            renamed[new.replace("#", index[2] if index else "")] = tensor
    return renamed, unknown


def compare(stated: Mapping[str, Any], found: Mapping[str, Any], source: object, where: str) -> None:
    """Check that the weights are those of the model that a file describes.

    Args:
        stated: the description, in the format's own words; not compared is what it leaves out or has as None.
        found: the same of the model that the weights make.
        source: the checkpoint, for the message.
        where: the description stands, for the same.

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
        }
    except KeyError as error:
        raise CheckpointError(f"{source} is no complete HuBERT: {error.args[0]} is missing") from None
    except (IndexError, ZeroDivisionError):
        raise CheckpointError(f"{source} is no HuBERT: its weights have other shapes") from None


def check_types(fields: Mapping[str, Any], source: object) -> None:
    """Check that values read from a file have the types of `HubertConfig`'s fields.

    Raises:
        CheckpointError: naming the first unknown field or wrong value.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(HubertConfig)}
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
            good = isinstance(value, int | float) and not isinstance(value, bool)
        elif isinstance(default, int) and not isinstance(default, bool):
            good = _positive(value)
        else:
            good = isinstance(value, type(default))
        if not good:
            raise CheckpointError(
                f"{source}: {name} is {str(value)[:40]!r}, expected a value such as {default!r}"
            )


def _positive(value: Any) -> bool:
    return type(value) is int and value > 0


def make_config(fields: Mapping[str, Any], source: object) -> HubertConfig:
    """`HubertConfig` of values read from a file.

    Raises:
        CheckpointError: for unknown fields and for values that no model can have.
    """
    check_types(fields, source)
    try:
        return HubertConfig(**fields)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source} describes an impossible model: {first_line(error)}") from None


def own_section(
    config: HubertConfig,
    provenance: Mapping[str, Any] | None,
    fields: Sequence[str] = ("cnn_grad_scale",),
) -> dict[str, Any]:
    """Our "distill" section in another program's file: the provenance, and what has no safe place elsewhere.

    Args:
        config: of the model.
        provenance: plain values.
        fields: of the configuration that the other program does not keep, some of `_OWN`.
    """
    return {**(provenance or {}), **{name: getattr(config, name) for name in fields}}


def split_own(section: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `own_section` made, apart again.

    Args:
        section: as read; files that others wrote have none, or something else.

    Returns:
        The provenance, and the fields of `HubertConfig`, to be checked by `make_config`.
    """
    own = section if isinstance(section, dict) else {}
    provenance = {key: value for key, value in own.items() if key not in _OWN}
    return provenance, {key: value for key, value in own.items() if key in _OWN}


_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def fill(make: Callable[[], _Model], state: Mapping[str, Any], source: object) -> _Model:
    """A model with the given weights, in float32 and in eval mode.

    Args:
        make: builds the architecture; runs without allocating or initialising anything.
        state: every weight of it, and no other; copied.
        source: the checkpoint, for the message.

    Raises:
        CheckpointError: if weights are missing, unexpected, of another shape, not finite, or quantised: as
            whole numbers, or in 8 bits, they are not the weights without their scales.
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
            problems.append(f"{key} is no tensor")
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


def fill_encoder(config: HubertConfig, state: Mapping[str, Tensor], source: object) -> HubertEncoder:
    """`fill` for a `HubertEncoder`."""
    return fill(lambda: HubertEncoder(config), state, source)


def is_plain_name(name: str) -> bool:
    """Whether a name from outside is that of a file in the folder it is read in, and no way out of it."""
    return bool(name.strip(".")) and name.isprintable() and not {"/", "\\"} & set(name) and len(name) < 200


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file (damaged, or a download cut short?): "
            f"{first_line(error)}"
        ) from None


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a .safetensors file atomically.

    Raises:
        CheckpointError: as `atomic`.
    """
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})  # transformers insists on the metadata


def write_torch(path: Path, contents: Any) -> Path:
    """Write a file of torch.save atomically; returns its path.

    Raises:
        CheckpointError: as `atomic`.
    """
    with atomic(path) as temporary, temporary.open("wb") as stream:
        torch.save(contents, stream)  # a stream: given a path, torch puts its (temporary) name into the file
    return path


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file atomically.

    Raises:
        CheckpointError: as `atomic`.
        ValueError: for values that JSON does not have.
    """
    try:
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    except TypeError as error:
        raise ValueError(f"{path.name} can hold plain values only: {error}") from None
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A path to write to; it takes the place of `path` once whole: readers never see a part of a file.

    Raises:
        CheckpointError: if the folder cannot be made or written.
    """
    try:
        with whole(path) as temporary:
            yield temporary
            temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"cannot write {path}: {reason}; choose another place or make room") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        CheckpointError: if it is missing, damaged or no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a readable JSON file: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected a JSON object")
    return values
