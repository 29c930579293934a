"""Small models of every format, and ways to change what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from distill.checkpoints import export, safe_pickle
from distill.hubert import HubertEncoder
from distill.student import Student

CONVS = ((8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2))

SMALL = {"dim": 16, "ffn_dim": 24, "heads": 2, "layers": 3, "position_groups": 2, "position_kernel": 4}

FORMATS = ("huggingface", "fairseq", "torchaudio", "s3prl", "native")


def made(format: str, folder: Path) -> Path:
    """A small model in a format: a student where the format is for students, else a teacher."""
    torch.manual_seed(0)
    model: Any = HubertEncoder.from_preset("mini", conv_layers=CONVS, **SMALL).eval()
    if format == "s3prl":
        model = Student.from_teacher(model, layers=3, targets=(1, 3)).eval()
    return export(model, format, folder)


def write_again(contents: dict, path: Path) -> None:
    """Beside the file and then in its place: what was loaded from it is still mapped."""
    torch.save(contents, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def change_weights(format: str, path: Path, change: Callable[[dict], dict]) -> None:
    """Write the weights of an exported file again, changed."""
    if format in ("huggingface", "native"):
        file = path / "model.safetensors" if path.is_dir() else path
        save_file({key: value.clone() for key, value in change(load_file(file)).items()}, file)
        return
    contents = safe_pickle.load(path)
    contents.pop("task_state", None)
    name = {"fairseq": "model", "s3prl": "Distiller"}.get(format)
    write_again(contents | {name: change(dict(contents[name]))} if name else change(contents), path)


def change_description(format: str, path: Path, changes: dict[str, Any]) -> None:
    """Change what an exported file says about its model, in the format's own words."""
    if format in ("fairseq", "s3prl"):
        contents = safe_pickle.load(path)
        contents.pop("task_state", None)
        described = contents["cfg"]["model"] if format == "fairseq" else contents["Config"]["distiller"]
        described.update(changes)
        write_again(contents, path)
        return
    file = path / "config.json" if path.is_dir() else path.with_suffix(".json")
    values = json.loads(file.read_text())
    inner = {"native": "architecture", "torchaudio": "wav2vec2_model"}.get(format)
    (values[inner] if inner else values).update(changes)
    file.write_text(json.dumps(values))


def of_layer(number: int, state: dict) -> list[str]:
    """The names of a transformer layer's weights, not of a convolution's."""
    return [key for key in state if f"layers.{number}." in key and "conv" not in key]
