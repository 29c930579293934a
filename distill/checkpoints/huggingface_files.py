"""The weights of a Hugging Face folder: one file or shards with an index, here or on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.checkpoints import files, safe_pickle
from distill.errors import CheckpointError, first_line, listed

_SAFE, _PICKLED = "model.safetensors", "pytorch_model.bin"
_INDEX = {_SAFE: "model.safetensors.index.json", _PICKLED: "pytorch_model.bin.index.json"}
_SHARDS = {_SAFE: "model-*-of-*.safetensors", _PICKLED: "pytorch_model-*-of-*.bin"}
WEIGHTS = (_SAFE, _INDEX[_SAFE], _PICKLED, _INDEX[_PICKLED])
"""Any of them is a model's weights; the first that exists counts."""
_SETTINGS = ("config.json", "preprocessor_config.json")


def read(folder: Path) -> dict[str, Any]:
    """The weights in a folder, under their own names.

    Raises:
        CheckpointError: if there are none, or they are damaged or not complete.
    """
    for single, index in _INDEX.items():
        if (folder / single).is_file():
            return _read_file(folder / single)
        if (folder / index).is_file():
            return _read_shards(folder / index)
    raise CheckpointError(
        f"{folder} has a config.json but neither {' nor '.join(_INDEX)}, in one file or in shards with an "
        "index"
    )


def _read_file(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return files.read_safetensors(path)
    tensors = safe_pickle.load(path)
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path} holds a {type(tensors).__name__}, expected a dict of weights")
    return tensors


def _read_shards(index: Path) -> dict[str, Any]:
    """The weights of all the files that an index names, which must hold what it says and nothing else."""
    placed = files.read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed:
        raise CheckpointError(f"{index} has no 'weight_map', which says where each weight lies")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    names = sorted(set(map(str, placed.values())))
    for name in names:
        if not files.is_plain_name(name) or Path(name).suffix != suffix:
            raise CheckpointError(f"{index} names {ascii(name)[:80]}, expected {suffix} files next to it")
    tensors: dict[str, Any] = {}
    for name in names:
        found = _read_file(index.parent / name)
        expected = {weight for weight, shard in placed.items() if shard == name}
        if found.keys() != expected:
            wrong = listed(sorted(map(str, found.keys() ^ expected)))
            raise CheckpointError(f"{index.parent / name} and {index.name} disagree about {wrong}")
        tensors |= found
    return tensors


def download(hub_id: str) -> Path:
    """The folder of a model on the hub, from the cache if it is in it.

    Raises:
        CheckpointError: if it cannot be downloaded.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(f"reading {hub_id} from the hub needs `pip install huggingface_hub`") from error
    folder = Path()
    try:
        for single, index in _INDEX.items():  # one of the two is enough, and they are large
            wanted = [*_SETTINGS, single, index, _SHARDS[single]]
            folder = Path(snapshot_download(hub_id, allow_patterns=wanted))
            if (folder / single).is_file() or (folder / index).is_file():
                break
    except Exception as error:  # the exceptions of its network stack differ between versions
        raise CheckpointError(
            f"{hub_id} is not an existing path, and fetching it from the Hugging Face hub failed "
            f"({first_line(error)}): check name and network, or give a folder you downloaded"
        ) from error
    return folder
