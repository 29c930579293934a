"""Codebooks: the centres of k-means, ours (.npy) or as fairseq's recipe leaves them (scikit-learn, joblib).

A joblib file is a pickle with raw arrays between its opcodes: where the pickle restores a NumpyArrayWrapper,
the array's bytes follow. It is read with `safe_pickle`'s list of allowed names, so nothing in it is run, and
neither joblib nor scikit-learn is imported. Shapes: K clusters, D features.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from distill.atomic import read_json
from distill.checkpoints import safe_pickle
from distill.checkpoints.safe_pickle import StandIn
from distill.encoder import Encoder
from distill.errors import CheckpointError, first_line
from distill.hubert import HubertConfig, beyond_weights

_NPY_MAGIC = b"\x93NUMPY"
_PICKLE_MAGIC = b"\x80"
_ARRAY_MARK = ("joblib.numpy_pickle", "NumpyArrayWrapper")
_DTYPE = re.compile(r"[biuf]\d{1,2}")  # codes of numbers: an array of objects would be another pickle


def load_codebook(path: str | Path) -> Tensor:
    """Read cluster centres.

    Args:
        path: a .npy file (K, D); a k-means of scikit-learn written by `joblib.dump` without compression, as
            fairseq's `learn_kmeans.py` does; or a folder of targets, for the codebook in it.

    Returns:
        (K, D) float32, K >= 2.

    Raises:
        CheckpointError: if the file is missing, damaged, malicious, or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "codebook.npy"
    try:
        contents = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: no codebook can be read here ({error.strerror or error}); name a .npy file, a k-means "
            "written by joblib, or a folder of `distill adapt targets`"
        ) from None
    if contents.startswith(_NPY_MAGIC):
        centres = _from_npy(contents, path)
    elif contents.startswith(_PICKLE_MAGIC):
        centres = _from_joblib(contents, path)
    else:
        raise CheckpointError(
            f"{path} is no codebook (it starts with {contents[:4]!r}), expected a .npy file or a k-means "
            "written by joblib without compression"
        )
    if centres.ndim != 2 or len(centres) < 2 or centres.dtype.kind not in "fiu":
        raise CheckpointError(
            f"{path} holds an array {centres.shape} of {centres.dtype}, expected the centres of at least two "
            "clusters, one a row"
        )
    centres = centres.astype(np.float32)
    if not np.isfinite(centres).all():
        raise CheckpointError(f"{path} holds centres that are not finite: make the codebook again")
    return torch.from_numpy(centres)


def clustered_layer(path: str | Path) -> int | None:
    """The layer whose features a codebook is of, if it is a folder of targets that says so.

    Raises:
        CheckpointError: if its description is damaged, or it is of MFCC.
    """
    settings = _description(path)
    if settings is None:
        return None
    features = str(settings.get("features", ""))
    kind, _, layer = features.partition(" ")
    if kind != "layer" or not layer.isdecimal():
        raise CheckpointError(f"{path} has clusters of {features or 'nothing'}, not of a teacher's layer")
    return int(layer)


def clustered_by(encoder: Encoder, path: str | Path) -> bool:
    """Whether a codebook is of this encoder's features, or does not say."""
    weights = (_description(path) or {}).get("weights")
    return not weights or weights == encoder_identity(encoder)


def _description(path: str | Path) -> dict[str, Any] | None:
    """Of a folder of targets; None if it is none."""
    described = Path(path) / "targets.json"
    if not described.is_file():
        return None
    try:
        settings = read_json(described)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{described} cannot be read: {first_line(error)}") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{described} cannot be read: it is no description of targets")
    return settings


def encoder_identity(encoder: Encoder) -> str:
    """Changes with anything that the features depend on."""
    more = beyond_weights(encoder.config) if isinstance(encoder.config, HubertConfig) else ""
    return " ".join(filter(None, (digest(encoder.state_dict().values()), more)))


def digest(tensors: Iterable[Tensor]) -> str:
    """Changes with any number of the tensors."""
    found = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _from_npy(contents: bytes, path: Path) -> np.ndarray:
    try:
        return np.load(io.BytesIO(contents), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise CheckpointError(f"{path} is a damaged .npy file: {first_line(error)}") from None


def _from_joblib(contents: bytes, path: Path) -> np.ndarray:
    try:
        model = _Unpickler(io.BytesIO(contents)).load()
    except Exception as error:  # a damaged or hostile stream can make an unpickler raise anything
        raise CheckpointError(
            f"{path} is not a k-means that can be read (damaged, or more than a k-means?): "
            f"{first_line(error)}"
        ) from None
    state = model.state if isinstance(model, StandIn) and isinstance(model.state, dict) else {}
    centres = state.get("cluster_centers_")
    if not isinstance(centres, _Array):
        found = model.name if isinstance(model, StandIn) else type(model).__name__
        raise CheckpointError(f"{path} holds {found}, expected a fitted k-means of scikit-learn")
    return centres.value


class _Array(StandIn):
    """What joblib puts into the pickle in place of an array, whose bytes follow."""

    value: np.ndarray


class _Unpickler(safe_pickle._Unpickler):
    """It reads no further than an operation goes: the bytes of an array may follow."""

    def __init__(self, stream: io.BytesIO):
        super().__init__(stream, _no_storage)
        self._stream = stream

    @override
    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) == _ARRAY_MARK:
            return _Array
        if module.partition(".")[0] == "sklearn":
            return type(name, (StandIn,), {"name": f"{module}.{name}"})
        return super().find_class(module, name)

    @override
    def build(self, instance: Any, state: Any) -> None:
        if isinstance(instance, _Array):
            instance.value = _read_array(self._stream, state)
        else:
            super().build(instance, state)


def _no_storage(pid: Any) -> Any:
    raise ValueError("it holds tensors of torch")


def _read_array(stream: io.BytesIO, wrapper: dict[str, Any]) -> np.ndarray:
    """The array that a NumpyArrayWrapper announces: padding to a multiple of 16 bytes, then its samples."""
    dtype = _dtype(wrapper["dtype"])
    shape = tuple(int(size) for size in wrapper["shape"])
    if any(size < 0 for size in shape):
        raise ValueError(f"an array of shape {shape}")
    if wrapper.get("numpy_array_alignment_bytes") is not None:  # since joblib 1.2: one byte says how many
        stream.read(int.from_bytes(stream.read(1), "little"))
    n_bytes = math.prod(shape) * dtype.itemsize
    data = stream.read(n_bytes)
    if len(data) != n_bytes:
        raise ValueError(f"an array of {n_bytes} bytes is cut short after {len(data)}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if wrapper["order"] == "F" else "C")


def _dtype(found: Any) -> np.dtype:
    """The stand-in of a numpy.dtype as what it stands for, if that is a plain number."""
    code = found.args[0] if isinstance(found, StandIn) and found.name == "numpy.dtype" else None
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise ValueError(f"an array of {ascii(code)[:40]}, not of numbers")
    order = found.state[1] if isinstance(found.state, tuple) and len(found.state) > 1 else "="
    return np.dtype(code).newbyteorder(order if order in ("<", ">") else "=")
