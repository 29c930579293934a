"""Write a model in another program's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.checkpoints import huggingface, native
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student

FORMATS = ("native", "huggingface", "s3prl", "fairseq", "torchaudio", "onnx")
_NEEDS_NORM = "its layout always has a layer norm before the projection, and a student has none"
_STUDENTS_ONLY = "it is for students"
_IMPOSSIBLE = {
    ("student", "fairseq"): _NEEDS_NORM,
    ("student", "torchaudio"): _NEEDS_NORM,
    ("teacher", "s3prl"): _STUDENTS_ONLY,
    ("teacher", "onnx"): _STUDENTS_ONLY,
}
_POSSIBLE = {
    "student": "s3prl, huggingface, onnx and native",
    "teacher": "fairseq, torchaudio, huggingface and native",
}


def export(
    model: HubertEncoder | Student,
    format: str,
    path: str | Path,
    *,
    provenance: dict[str, Any] | None = None,
) -> Path:
    """Write a model for another program.

    Args:
        model: a teacher or a student. Hugging Face's format takes a student's encoder without its heads.
        format: one of `FORMATS`.
        path: a folder, made if missing.
        provenance: where the model comes from, plain values; kept in the exported configuration.

    Returns:
        What was written: the folder, or for "native" the .safetensors file.

    Raises:
        CheckpointError: if the format cannot hold the model, or the path cannot be written.
        ValueError: for an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there are {', '.join(FORMATS)}")
    kind = "student" if isinstance(model, Student) else "teacher"
    reason = _IMPOSSIBLE.get((kind, format))
    if reason:
        raise CheckpointError(
            f"a {kind} cannot be exported to {format}: {reason}; it goes to {_POSSIBLE[kind]}"
        )
    if Path(path).is_file():
        raise CheckpointError(f"{path} is a file, expected a folder to write to")
    if format == "native":
        return native.write(model, path, provenance)
    if format == "huggingface":
        encoder = model.encoder if isinstance(model, Student) else model
        return huggingface.write(encoder, path, provenance)
    raise CheckpointError(f"export to {format} is not there yet, only to native and huggingface")
