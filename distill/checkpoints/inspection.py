"""Say what a checkpoint is."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from distill.checkpoints import huggingface, native, onnx
from distill.checkpoints.loading import EXPORT_NAMES, exported_files, open_source
from distill.checkpoints.native import Kind
from distill.student import Student


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is."""

    path: str
    """The source as it was given."""
    format: str
    """"native", "fairseq", "huggingface", "torchaudio", "s3prl", "onnx" or "random"."""
    kind: Kind
    """"teacher" (any plain encoder with a projection norm) or "student"."""
    layers: int
    """Transformer layers."""
    dim: int
    """D, features of a frame."""
    parameters_encoder: int
    """Parameters of the encoder alone."""
    parameters_total: int
    """With the prediction heads of a student."""
    targets: tuple[int, ...] | None
    """Teacher layers that a student predicts; None for a plain encoder."""
    normalize_input: bool
    """Whether waveforms are normalised to zero mean and unit variance first."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from, plain values."""

    def lines(self) -> list[str]:
        """For the command line, one fact a line."""
        facts = {
            "path": self.path,
            "format": self.format,
            "kind": self.kind,
            "layers": self.layers,
            "dim": self.dim,
            "parameters (encoder)": f"{self.parameters_encoder:,}",
            "parameters (total)": f"{self.parameters_total:,}",
            "normalises waveforms": "yes" if self.normalize_input else "no",
        }
        if self.targets is not None:
            facts["predicts teacher layers"] = ", ".join(map(str, self.targets))
        for key, value in self.provenance.items():
            names = value.items() if isinstance(value, dict) else [(None, value)]
            facts |= {f"provenance: {key}" + (f" {n}" if n else ""): v for n, v in names}
        width = max(map(len, facts))
        return [f"{name:<{width}}  {value}" for name, value in facts.items()]


def inspect(source: str | Path) -> CheckpointInfo:
    """What a checkpoint is, of any format that can be loaded, and of our ONNX files and their folders.

    Raises:
        CheckpointError: as `load_teacher`.
    """
    with suppress(OSError):  # a folder that cannot be read: `open_source` says so
        files = _onnx_files(Path(source).expanduser())
        if files:
            return _inspect_onnx(files, str(source))
    opened = open_source(str(source), "any")
    model = opened.model
    encoder = model.encoder if isinstance(model, Student) else model
    student = isinstance(model, Student) or not encoder.config.projection_norm
    return CheckpointInfo(
        path=str(source),
        format=opened.format,
        kind="student" if student else "teacher",
        layers=encoder.config.layers,
        dim=encoder.config.dim,
        parameters_encoder=_count(encoder),
        parameters_total=_count(model),
        targets=model.targets if isinstance(model, Student) else None,
        normalize_input=encoder.config.normalize_input,
        provenance=opened.provenance,
    )


def _onnx_files(path: Path) -> list[Path]:
    """The ONNX file that a path is, or those of a folder with no other model; [] for anything else."""
    if not path.is_dir():
        return [path] if path.suffix == ".onnx" and path.is_file() else []
    full = path / EXPORT_NAMES["onnx"]
    if native.locate(path, "student") or huggingface.matches(path) or exported_files(path) != [full]:
        return []
    int8 = onnx.int8_path(full)
    return [full, int8] if int8.is_file() else [full]


def _inspect_onnx(files: list[Path], source: str) -> CheckpointInfo:
    """Of files that hold the same model in float32 and in int8."""
    described = [onnx.describe(file) for file in files]
    config, noted = described[0]
    targets = noted["targets"]
    return CheckpointInfo(
        path=source,
        format="onnx",
        kind="teacher" if config.projection_norm else "student",
        layers=config.layers,
        dim=config.dim,
        parameters_encoder=noted["parameters"],
        parameters_total=noted["parameters"],
        targets=None if targets is None else tuple(targets),
        normalize_input=config.normalize_input,
        provenance={"precision": ", ".join(found["precision"] for _, found in described)}
        | noted["provenance"],
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
