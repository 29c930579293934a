"""Our own checkpoints: releases (`student.safetensors` + `student.json`) and the `last.ckpt` of a run.

The JSON says format version, kind, architecture and provenance. A Lightning checkpoint says the same under
"distill", and has the weights among those of the training module. A run folder holds either or both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from distill.checkpoints import architecture, files, safe_pickle, torch_files, weights
from distill.encoder import Encoder, EncoderConfig
from distill.errors import CheckpointError
from distill.student import Student

Kind = Literal["teacher", "student"]
KINDS: tuple[Kind, Kind] = ("teacher", "student")
VERSION = 1
_PREFIXES = {"student": "student.", "teacher": "encoder."}  # of the weights in a Lightning checkpoint


def write(model: Encoder | Student, folder: str | Path, provenance: dict[str, Any] | None = None) -> Path:
    """Write `teacher.safetensors` or `student.safetensors` and its JSON, atomically.

    Args:
        model: what to write; its class decides the kind.
        folder: made if missing.
        provenance: where the model comes from, plain values.

    Returns:
        The .safetensors file.

    Raises:
        CheckpointError: if the folder cannot be written.
        ValueError: if the provenance has values that JSON does not have.
    """
    kind = "student" if isinstance(model, Student) else "teacher"
    description = model.to_dict() if isinstance(model, Student) else model.config.to_dict()
    path = Path(folder) / f"{kind}.safetensors"
    values = {"version": VERSION, "kind": kind, "architecture": description, "provenance": provenance or {}}
    files.write_described(path, model.state_dict(), {"format": "robust-distilhubert"} | values)
    return path


def locate(path: Path, prefer: Kind) -> Path | None:
    """The file of ours that a path means.

    Args:
        path: a .safetensors file with its .json next to it, that .json, a Lightning checkpoint, or a folder
            with any of them; of a folder the release comes first, then `checkpoints/last.ckpt`.
        prefer: which kind to take where a folder holds both.

    Returns:
        The .safetensors or .ckpt file; None if there is nothing of ours.
    """
    if path.is_dir():
        for kind in sorted(KINDS, key=lambda kind: kind != prefer):
            if (path / f"{kind}.safetensors").is_file():
                return path / f"{kind}.safetensors"
        others = (path / "finetuned.safetensors", path / "checkpoints" / "last.ckpt")
        return next((file for file in others if file.is_file()), None)
    release = path.with_suffix(".safetensors")
    if path.suffix == ".json" and (path.stem in KINDS or release.is_file()):
        path = release
    if path.suffix == ".safetensors" and path.with_suffix(".json").is_file():
        return path
    return path if _is_lightning(path) else None


def _is_lightning(path: Path) -> bool:
    """Whether a file is a zip of torch.save whose pickle mentions Lightning; nothing is unpickled for it."""
    try:
        return b"pytorch-lightning_version" in (torch_files.Records(path).read("data.pkl") or b"")
    except Exception:  # whatever a damaged or hostile archive makes Python's reader raise
        return False


def read(path: str | Path, *, prefer: Kind = "student") -> tuple[Encoder | Student, dict[str, Any]]:
    """A model of ours, in eval mode, and its provenance.

    Args:
        path: see `locate`.
        prefer: which kind to take where a folder holds both.

    Raises:
        CheckpointError: if there is none, or it is damaged or does not fit its description.
    """
    found = locate(Path(path), prefer)
    if found is None:
        raise CheckpointError(
            f"{path} is not a checkpoint of ours, expected student.safetensors or teacher.safetensors with "
            "its .json, a Lightning .ckpt, or a folder with one of them"
        )
    if found.suffix != ".safetensors":
        return _read_lightning(found)
    described = found.with_suffix(".json")
    description = files.read_json(described)
    if description.get("version") != VERSION:
        raise CheckpointError(
            f"{described} has format version {description.get('version')!r}, this release reads {VERSION}"
        )
    return _build(description, files.read_described(found, description), found)


def _read_lightning(path: Path) -> tuple[Encoder | Student, dict[str, Any]]:
    contents = safe_pickle.load(path)
    contents = contents if isinstance(contents, dict) else {}
    description, state = safe_pickle.plain(contents.get("distill")), contents.get("state_dict")
    if not isinstance(description, dict) or not isinstance(state, dict):
        raise CheckpointError(
            f"{path} is a Lightning checkpoint of another program: it has no 'distill' entry"
        )
    prefix = _PREFIXES.get(str(description.get("kind")), "")
    named = {str(key): value for key, value in state.items()}
    ours = {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}
    return _build(description, ours, path)


def _build(
    description: dict[str, Any], state: dict[str, Any], path: Path
) -> tuple[Encoder | Student, dict[str, Any]]:
    """A model from its description and weights."""
    kind, values = description.get("kind"), description.get("architecture")
    provenance = description.get("provenance")
    provenance = provenance if isinstance(provenance, dict) else {}
    if kind == "finetuned":
        raise CheckpointError(
            f"{path} is a fine-tuned model, encoder and classifier, which distill finetune tests: "
            "elsewhere, name the encoder that it was made from"
        )
    if kind not in KINDS or not isinstance(values, dict):
        raise CheckpointError(
            f"{path} does not say what it holds ('kind' and 'architecture'), or says it wrongly"
        )
    state = weights.unwrapped(state, path)
    if kind == "teacher":
        return weights.fill_encoder(_checked_config(values, state, path), state, path), provenance
    missing = {"encoder", "targets", "target_dim"} - values.keys()
    if missing or not isinstance(values["encoder"], dict):
        raise CheckpointError(
            f"{path}: the student's architecture has no {', '.join(sorted(missing)) or 'encoder'}"
        )
    targets, target_dim = values["targets"], values["target_dim"]
    if (
        not isinstance(targets, list | tuple)
        or not targets
        or any(type(layer) is not int for layer in targets)
    ):
        raise CheckpointError(f"{path}: targets is {targets!r}, expected the predicted teacher layers")
    if type(target_dim) is not int or target_dim < 1:
        raise CheckpointError(f"{path}: target_dim is {target_dim!r}, expected a positive number")
    sources = values.get("sources")  # files of students that predict layer from layer
    encoder_state = {key.removeprefix("encoder."): value for key, value in state.items()}
    config = _checked_config(values["encoder"], encoder_state, path)
    if sources is not None and not _are_layers(sources, len(targets), config.layers):
        raise CheckpointError(
            f"{path}: sources is {str(sources)[:80]}, expected a layer of the student, 0 to "
            f"{config.layers}, for each of {len(targets)} targets"
        )
    return weights.fill(lambda: Student(config, targets, target_dim, sources), state, path), provenance


def _are_layers(sources: Any, count: int, layers: int) -> bool:
    return (
        isinstance(sources, list | tuple)
        and len(sources) == count
        and all(type(layer) is int and 0 <= layer <= layers for layer in sources)
    )


def _checked_config(values: dict[str, Any], state: dict[str, Any], path: Path) -> EncoderConfig:
    """The described configuration; before a model of any size is built, the weights must be as deep."""
    config = architecture.make_config(values, path)
    architecture.check_depth(config, state, path)
    return config
