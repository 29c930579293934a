"""The files of checkpoints: JSON, safetensors and torch.save; mistakes are `CheckpointError`s."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill import atomic as whole_files
from distill.errors import CheckpointError, first_line


def is_plain_name(name: str) -> bool:
    """Whether a name from outside is one of a file in a folder, not a path that leads out of it."""
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


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        CheckpointError: if it is missing, damaged or no object.
    """
    try:
        return whole_files.read_json(path)
    except OSError as error:
        raise CheckpointError(f"{path} is not a readable JSON file: {first_line(error)}") from None
    except ValueError as error:  # names the path
        raise CheckpointError(str(error)) from None


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
    """A path to write to; it takes the place of `path` when complete: nobody reads a part of a file.

    Raises:
        CheckpointError: if the folder cannot be made or written.
    """
    try:
        with whole_files.atomic(path) as temporary:
            yield temporary
            temporary.chmod(0o644)  # safetensors makes files that only their owner can read
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise CheckpointError(f"cannot write {path}: {reason}; choose another place or make room") from error
