"""The files of checkpoints: JSON, safetensors and torch.save; mistakes are `CheckpointError`s."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill import atomic as whole_files
from distill.errors import CheckpointError, first_line

_MAX_HEADER = 8 << 20
"""Bytes of the table of contents of a .safetensors file: 80 000 tensors."""
_CHECKSUM = "blake2b"
"""Key in the metadata of a .safetensors file of ours."""


def is_plain_name(name: str) -> bool:
    """Whether a name from outside is one of a file in a folder, not a path that leads out of it."""
    return bool(name.strip(".")) and name.isprintable() and not {"/", "\\"} & set(name) and len(name) < 200


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, verified against its checksum if `write_safetensors` made it.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        _check_header(path)
        tensors, wanted = load_file(path), checksum_of(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file (damaged, or a download cut short?): "
            f"{first_line(error)}"
        ) from None
    if wanted is not None and wanted != _checksum(tensors):
        raise CheckpointError(f"{path} is damaged (it does not match its checksum): restore it from a copy")
    return tensors


def _check_header(path: Path) -> None:
    """Refuse a table of contents that itself takes gigabytes.

    Raises:
        OSError: if the file cannot be read.
        ValueError: naming the size.
    """
    with path.open("rb") as stream:
        n_bytes = int.from_bytes(stream.read(8), "little")
    if n_bytes > _MAX_HEADER:
        raise ValueError(f"its header has more than {_MAX_HEADER >> 20} MB")


def checksum_of(path: Path) -> str | None:
    """The checksum that `write_safetensors` noted in a file; None if another program wrote it.

    Raises:
        SafetensorError: if the file is damaged.
        OSError: if it cannot be read.
    """
    with safe_open(path, framework="pt") as opened:
        return (opened.metadata() or {}).get(_CHECKSUM)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """BLAKE2b of names, types, shapes and contents."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode(errors="surrogatepass"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_safetensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a .safetensors file atomically, with its checksum.

    Raises:
        CheckpointError: as `atomic`.
    """
    tensors = _on_cpu(state)
    with atomic(path) as temporary:
        _save(temporary, tensors, _checksum(tensors))


def write_described(path: Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights, and next to them a JSON file with their description and checksum.

    Both are on the disk before either takes the place of an older one: a full disk leaves the old pair.

    Raises:
        CheckpointError: as `atomic`.
        ValueError: as `write_json`.
    """
    tensors = _on_cpu(state)
    checksum = _checksum(tensors)
    with atomic(path) as temporary:
        _save(temporary, tensors, checksum)
        write_json(path.with_suffix(".json"), {**description, "weights": {_CHECKSUM: checksum}})


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}


def _save(path: Path, tensors: dict[str, Tensor], checksum: str) -> None:
    """Write tensors, and wait until the disk has them."""
    metadata = {"format": "pt", _CHECKSUM: checksum}  # transformers wants the format
    save_file(tensors, path, metadata=metadata)
    _order(path, metadata)
    whole_files.flush(path)


def _order(path: Path, metadata: Mapping[str, str]) -> None:
    """Write the metadata in this order: the library's is random, and the same model is the same file."""
    start, ordered = b'{"__metadata__":', json.dumps(metadata, separators=(",", ":")).encode()
    with path.open("r+b") as stream:
        stream.seek(8)  # behind the size of the table of contents
        if stream.read(len(start)) == start and sorted(stream.read(len(ordered))) == sorted(ordered):
            stream.seek(8 + len(start))
            stream.write(ordered)


def read_described(path: Path, description: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights next to a description, which may be of others after a write that was broken off.

    Raises:
        CheckpointError: as `read_safetensors`, or they are not those of the description.
    """
    tensors, noted = read_safetensors(path), description.get("weights")
    wanted = noted.get(_CHECKSUM) if isinstance(noted, dict) else None  # earlier versions noted none
    found = checksum_of(path)  # weights that their owner has converted with another program have none
    if None not in (wanted, found) and wanted != found:
        raise CheckpointError(
            f"{path} is not what {path.with_suffix('.json').name} describes (a write that was broken off, or "
            "two models mixed up): restore both from a copy, or make them again"
        )
    return tensors


def write_torch(path: Path, contents: Any) -> Path:
    """Write a file of torch.save atomically; returns its path.

    Raises:
        CheckpointError: as `atomic`.
    """
    with atomic(path) as temporary:
        save_torch(contents, temporary)
    return path


def save_torch(contents: Any, path: Path) -> None:
    """`torch.save`, of which a full disk is an OSError, too.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        with path.open("wb") as stream:
            torch.save(contents, stream)  # a stream: given a path, torch puts its name into the file
    except RuntimeError as error:  # torch's writer, while it ends the file after an error of the stream
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


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
