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
from distill.encoder import EncoderConfig
from distill.hubert import HubertConfig
from distill.markdown import shortened
from distill.spiral.encoder import SpiralConfig
from distill.student import Student
from distill.waveforms import SAMPLE_RATE

_LONGEST_NAME, _LONGEST = 80, 1000
"""Letters of the name of a fact, and of a fact: nobody reads more on a terminal."""
_FAMILIES = {"hubert": "HuBERT or wav2vec 2.0", "spiral": "SPIRAL"}


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is."""

    path: str
    """The source as it was given."""
    format: str
    """"native", "fairseq", "wavlm", "huggingface", "torchaudio", "s3prl", "nemo", "onnx" or "random"."""
    kind: Kind
    """"teacher" (any plain encoder of SPIRAL, and of HuBERT with a projection norm) or "student"."""
    family: str
    """"hubert" (wav2vec 2.0 is one) or "spiral"."""
    layers: int
    """Transformer layers; of SPIRAL those of block 2, whose frames it puts out."""
    dim: int
    """D, features of a frame."""
    hop: int
    """Samples at 16 kHz from one frame to the next."""
    parameters_encoder: int
    """Parameters of the encoder alone."""
    parameters_total: int
    """With the prediction heads of a student."""
    targets: tuple[int, ...] | None
    """Teacher layers that a student predicts; None for a plain encoder."""
    normalize_input: bool
    """Whether waveforms are normalised to zero mean and unit variance first."""
    relative_buckets: int = 0
    """Of the gated relative position bias of a WavLM; 0 in others."""
    reuse_attention: bool = False
    """Whether every second layer attends with the map of the layer before."""
    blocks: str = ""
    """Of SPIRAL, for people."""
    front: str = ""
    """Of a HuBERT that hears other features than samples, for people."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where it comes from, plain values."""

    def lines(self) -> list[str]:
        """For the command line, one fact a line."""
        facts = {
            "path": self.path,
            "format": self.format,
            "kind": self.kind,
            "family": "WavLM" if self.relative_buckets else _FAMILIES[self.family],
            "frame rate": f"{SAMPLE_RATE / self.hop:g} Hz (every {1000 * self.hop / SAMPLE_RATE:g} ms)",
            "layers": self.layers,
            **({"blocks": self.blocks} if self.blocks else {}),
            **({"attention maps": "each used by two layers"} if self.reuse_attention else {}),
            "dim": self.dim,
            **({"front end": self.front} if self.front else {}),
            "parameters (encoder)": f"{self.parameters_encoder:,}",
            "parameters (total)": f"{self.parameters_total:,}",
            "normalises waveforms": "yes" if self.normalize_input else "no",
        }
        if self.targets is not None:
            facts["predicts teacher layers"] = ", ".join(map(str, self.targets))
        for key, value in self.provenance.items():
            names = value.items() if isinstance(value, dict) else [(None, value)]
            facts |= {f"provenance: {key}" + (f" {n}" if n else ""): v for n, v in names}
        # Names and values of the provenance are the checkpoint's: each fact stays on its line.
        lines = {shortened(name, _LONGEST_NAME): shortened(value, _LONGEST) for name, value in facts.items()}
        width = max(map(len, lines))
        return [f"{name:<{width}}  {value}" for name, value in lines.items()]


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
    student = isinstance(model, Student) or _is_student(encoder.config)
    return CheckpointInfo(
        path=str(source),
        format=opened.format,
        kind="student" if student else "teacher",
        **_architecture(encoder.config),
        parameters_encoder=_count(encoder),
        parameters_total=_count(model),
        targets=model.targets if isinstance(model, Student) else None,
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
        kind="student" if targets is not None or _is_student(config) else "teacher",
        **_architecture(config),
        parameters_encoder=noted["parameters"],
        parameters_total=noted["parameters"],
        targets=None if targets is None else tuple(targets),
        provenance={"precision": ", ".join(found["precision"] for _, found in described)}
        | ({} if noted["samples"] is None else {"samples": f"{noted['samples']}, one utterance"})
        | noted["provenance"],
    )


def _is_student(config: EncoderConfig) -> bool:
    """Whether a plain encoder can only be that of a student."""
    return isinstance(config, HubertConfig) and not config.projection_norm


def _architecture(config: EncoderConfig) -> dict[str, Any]:
    """The fields of `CheckpointInfo` that a configuration gives."""
    names = ("family", "layers", "dim", "hop", "normalize_input")
    found: dict[str, Any] = {name: getattr(config, name) for name in names}
    if isinstance(config, HubertConfig):
        found |= {name: getattr(config, name) for name in ("relative_buckets", "reuse_attention")}
    if isinstance(config, SpiralConfig):
        blocks = zip((config.block1_conv_layers, config.conv_layers), config.transformers, strict=True)
        sizes = [
            f"{len(convs)} convolutions, {block.layers} layers of {block.dim}" for convs, block in blocks
        ]
        found["blocks"] = "; ".join(f"block {number}: {size}" for number, size in enumerate(sizes, start=1))
    if isinstance(config, HubertConfig) and config.front == "mel":
        found["front"] = f"log-mels, {config.mel_bands} bands; {len(config.conv_layers)} convolutions"
    return found


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
