"""Write a model in another program's format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill.checkpoints import fairseq_writing, huggingface, loading, native, onnx, s3prl, torchaudio
from distill.checkpoints.card_metadata import MeasuredScore
from distill.checkpoints.loading import EXPORT_NAMES
from distill.checkpoints.model_card import Scores
from distill.checkpoints.paths import without_absolute_paths
from distill.encoder import Encoder
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student

FORMATS = ("native", "huggingface", "s3prl", "fairseq", "torchaudio", "onnx")
_NEEDS_NORM = "its layout always has a layer norm before the projection, and a student has none"
_STUDENTS_ONLY = "it is for students"
_IMPOSSIBLE = {
    ("student", "fairseq"): _NEEDS_NORM,
    ("student", "torchaudio"): _NEEDS_NORM,
    ("student without heads", "fairseq"): _NEEDS_NORM,
    ("student without heads", "torchaudio"): _NEEDS_NORM,
    ("student without heads", "s3prl"): "its layout has prediction heads",
    ("teacher", "s3prl"): _STUDENTS_ONLY,
    ("teacher", "onnx"): _STUDENTS_ONLY,
}
_ONE_MAP_EACH = (
    "its layers each have an attention map of their own, and this model's reuse them (reuse_attention)"
)
_OVER_SAMPLES = "its layout has convolutions over samples, and this model's hear log-mels (front mel)"
_NO_RELATIVE = "it is for HuBERT, and this model has the relative position bias of WavLM"
_OF_HUBERT = "it is for HuBERT, whose CNN hears the waveform; SPIRAL has two blocks behind log-mel features"
_POSSIBLE = {
    "student": ("s3prl", "huggingface", "onnx", "native"),
    "student without heads": ("huggingface", "onnx", "native"),
    "teacher": ("fairseq", "torchaudio", "huggingface", "native"),
    "SPIRAL encoder": ("onnx", "native"),
    "SPIRAL student": ("onnx", "native"),
}


def export_checkpoint(
    source: str | Path,
    format: str,
    path: str | Path,
    *,
    scores: Scores | Sequence[MeasuredScore] | None = None,
    license: str | None = None,
    n_samples: int | None = None,
) -> Path:
    """Load a checkpoint of any kind and `export` it, with its provenance and the recipe of its run folder.

    Args:
        source: anything that `load_teacher` or `load_student` takes.
        format: one of `FORMATS`.
        path: where to.
        scores: for the model card, as in `export`.
        license: the same.
        n_samples: of ONNX, as in `export`.

    Returns:
        What was written.

    Raises:
        CheckpointError: as `load_teacher` and `export`, or a file that would be written exists.
    """
    model, provenance, recipe = loading.load_any(source)
    for file in _written(model, format, Path(path)):
        if os.path.lexists(file):
            raise CheckpointError(f"{file} exists: choose another --out, or remove it first")
    card: dict[str, Any] = {"recipe": recipe, "scores": scores, "license": license}
    return export(model, format, path, provenance=provenance, n_samples=n_samples, **card)


def export(
    model: Encoder | Student,
    format: str,
    path: str | Path,
    *,
    provenance: dict[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    scores: Scores | Sequence[MeasuredScore] | None = None,
    license: str | None = None,
    n_samples: int | None = None,
) -> Path:
    """Write a model for another program.

    Args:
        model: a teacher or a student. Hugging Face's format and ONNX take a student's encoder without heads.
        format: one of `FORMATS`.
        path: a folder, made if missing; for formats that are one file also the file itself, recognised by
            its ending (s3prl: .ckpt, fairseq and torchaudio: .pt, onnx: .onnx).
        provenance: where the model comes from, plain values; kept in what is written. Absolute paths are cut
            down to their last part: a release says nothing about its author's machine.
        recipe: of the run, for the model card of Hugging Face's format (without absolute paths as well) and
            for what fairseq's says about the training.
        scores: for the model card: measured ones, or test condition -> task -> score.
        license: of the model, for the model card: as the hub calls it, such as "apache-2.0".
        n_samples: ONNX: the graph is for one utterance of so many samples, padding included; None: for any.

    Returns:
        What was written: the folder for "huggingface", for the others the file with the weights.

    Raises:
        CheckpointError: if the format cannot hold the model, packages are missing, or the path cannot be
            written.
        ValueError: for an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    kind = _kind(model)
    if n_samples is not None and format != "onnx":
        raise CheckpointError(f"a fixed length is for onnx: {format} has none")
    if format != "huggingface" and (scores or license):
        raise CheckpointError(f"scores and a licence are for huggingface's model card: {format} has none")
    spiral = kind.startswith("SPIRAL") and format not in ("native", "onnx")
    reason = _OF_HUBERT if spiral else _IMPOSSIBLE.get((kind, format))
    if reason := reason or _beyond(model, format):
        *names, last = (name for name in _POSSIBLE[kind] if _beyond(model, name) is None)
        possible = f"{', '.join(names)} and {last}"
        if format == "s3prl" and isinstance(model, Student):
            possible += "; in s3prl itself our upstream reads it as it is (docs/upstream.md)"
        raise CheckpointError(f"a {kind} cannot be exported to {format}: {reason}; it goes to {possible}")
    path = Path(path)
    name = EXPORT_NAMES.get(format)
    named = name is not None and path.suffix == Path(name).suffix
    if path.is_file() and not named:
        raise CheckpointError(f"{path} is a file, expected a folder to write to")
    if named and path.is_dir():
        raise CheckpointError(f"{path} is a folder, expected a file of that name or another folder")
    facts = without_absolute_paths(provenance or {})
    if format == "native":
        return native.write(model, path, facts)
    if format == "huggingface":
        encoder = model.encoder if isinstance(model, Student) else model
        assert isinstance(encoder, HubertEncoder)
        return huggingface.write(encoder, path, facts, recipe=recipe, scores=scores, license=license)
    file = path if name is None or named else path / name
    if isinstance(model, Student) and format == "s3prl":
        return s3prl.write(model, file, facts)
    if isinstance(model, HubertEncoder) and format == "fairseq":
        return fairseq_writing.write(model, file, facts, recipe=recipe)
    if isinstance(model, HubertEncoder) and format == "torchaudio":
        return torchaudio.write(model, file, facts)
    return onnx.write(model, file, facts, n_samples=n_samples)


def _beyond(model: Encoder | Student, format: str) -> str | None:
    """Why the layouts of other programs cannot hold a HuBERT that has more than the published ones."""
    if format in ("native", "onnx"):
        return None
    config = (model.encoder if isinstance(model, Student) else model).config
    if config.front != "cnn":
        return _OVER_SAMPLES
    if config.reuse_attention:
        return _ONE_MAP_EACH
    if config.relative_buckets and (format != "huggingface" or not config.projection_norm):
        return _NEEDS_NORM if format == "huggingface" else _NO_RELATIVE
    return None


def _written(model: Encoder | Student, format: str, path: Path) -> list[Path]:
    """The files that `export` writes."""
    if format == "native":
        kind = "student" if isinstance(model, Student) else "teacher"
        return [path / f"{kind}.safetensors", path / f"{kind}.json"]
    if format == "huggingface":
        return [path / name for name in huggingface.WRITTEN]
    name = EXPORT_NAMES.get(format, "")
    file = path if path.suffix == Path(name).suffix else path / name
    beside = {"torchaudio": [file.with_suffix(".json")], "onnx": [onnx.int8_path(file)]}
    return [file, *beside.get(format, [])]


def _kind(model: Encoder | Student) -> str:
    encoder = model.encoder if isinstance(model, Student) else model
    if not isinstance(encoder, HubertEncoder):
        return "SPIRAL student" if isinstance(model, Student) else "SPIRAL encoder"
    if isinstance(model, Student):
        return "student"
    return "teacher" if encoder.config.projection_norm else "student without heads"
