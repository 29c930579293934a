"""A fine-tuned model: encoder, classifier and units, and the files that it is released as.

`finetuned.safetensors` has the weights, `finetuned.json` describes them, `subwords.model` lies beside them if
the units are subwords.

Shapes: B utterances, T samples at 16 kHz, F frames of the classifier, V outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from distill.checkpoints import files, weights
from distill.downstream.finetuning.classifier import Classifier, ClassifierShape
from distill.downstream.finetuning.units import Units, read_units
from distill.encoder import Encoder
from distill.errors import CheckpointError, ConfigError, first_line
from distill.options import ClassifierConfig
from distill.student import config_of, encoder_of
from distill.waveforms import SAMPLE_RATE

NAME = "finetuned.safetensors"
"""The weights in a run folder."""
VERSION = 1

_CHARACTER_MS = 20.0  # frames of characters: HuBERT's own, and what SPIRAL's are upsampled to


class FineTuned(nn.Module):
    """An encoder and the classifier that hears it."""

    def __init__(self, encoder: Encoder, classifier: Classifier):
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    @override
    def forward(
        self, waveforms: Tensor, lengths: Tensor | None = None, **masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, T), (B,) samples -> (B, F, V) log-probabilities in float32, (B,) valid frames.

        `masks` are those of `Encoder.forward`.
        """
        out = self.encoder(waveforms, lengths, **masks)
        return self.classifier(out.last_hidden_state, out.lengths)

    def frames(self, n_samples: int) -> int:
        """Frames of so many samples at 16 kHz."""
        return self.encoder.config.frames(n_samples) * self.classifier.shape.upsampling

    def to_dict(self) -> dict[str, Any]:
        """The architecture as plain values, for JSON."""
        return {"encoder": self.encoder.config.to_dict(), "classifier": self.classifier.shape.to_dict()}


def make_shape(options: ClassifierConfig, encoder: Encoder, units: Units) -> ClassifierShape:
    """The classifier that a recipe describes, for an encoder and units.

    Raises:
        ConfigError: frames cannot be upsampled to that length.
    """
    characters = units.kind == "characters"
    encoder_ms = 1000.0 * encoder.config.hop / SAMPLE_RATE
    wanted_ms = options.frame_ms or (min(_CHARACTER_MS, encoder_ms) if characters else encoder_ms)
    factor = encoder_ms / wanted_ms
    if factor < 1 or abs(factor - round(factor)) > 1e-6:
        raise ConfigError(
            f"classifier.frame_ms {wanted_ms:g}: frames of the encoder, {encoder_ms:g} ms, can only be "
            "divided by whole numbers"
        )
    convolutions = options.convolutions
    return ClassifierShape(
        dim=encoder.config.dim,
        outputs=units.outputs,
        upsampling=round(factor),
        upsampling_width=options.upsampling_width,
        upsampling_norm=options.upsampling_norm,
        convolutions=(3 if characters else 2) if convolutions is None else convolutions,
        width=options.width,
        kernel=options.kernel,
        layer_norm=options.layer_norm,
        dropout=options.dropout,
    )


def write(model: FineTuned, units: Units, folder: Path, provenance: Mapping[str, Any]) -> Path:
    """Write a fine-tuned model, each file atomically; returns that of the weights.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    path = folder / NAME
    units.save(folder)
    description = {
        "format": "robust-distilhubert",
        "version": VERSION,
        "kind": "finetuned",
        "architecture": model.to_dict(),
        "units": units.kind,
        "provenance": dict(provenance),
    }
    files.write_described(path, model.state_dict(), description)
    return path


@dataclass(frozen=True)
class Loaded:
    """A fine-tuned model that has been read."""

    model: FineTuned
    """In eval mode."""
    units: Units
    """What its outputs mean."""
    provenance: dict[str, Any]
    """Where it comes from."""
    path: Path
    """Its weights."""


def load_finetuned(path: str | Path) -> Loaded:
    """Read a fine-tuned model.

    Args:
        path: a run folder, or its `finetuned.safetensors` or .json.

    Raises:
        CheckpointError: if there is none, or it is damaged or does not fit its description.
        UserError: it writes subwords, and SentencePiece is not installed.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path.with_suffix(".safetensors")
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise CheckpointError(
            f"{path} is no fine-tuned model, expected {NAME} with its .json, as `distill finetune` makes it"
        )
    description = files.read_json(path.with_suffix(".json"))
    if description.get("kind") != "finetuned" or description.get("version") != VERSION:
        raise CheckpointError(
            f"{path.with_suffix('.json')} describes {description.get('kind')!r} of version "
            f"{description.get('version')!r}, this release reads 'finetuned' of version {VERSION}"
        )
    units = read_units(str(description.get("units")), path.parent)
    model = weights.fill(lambda: _described(description), files.read_described(path, description), path)
    if model.classifier.shape.outputs != units.outputs:
        raise CheckpointError(
            f"{path} has {model.classifier.shape.outputs} outputs, its units {units.outputs}: they do not "
            "belong together"
        )
    provenance = description.get("provenance")
    return Loaded(model, units, provenance if isinstance(provenance, dict) else {}, path)


def _described(description: Mapping[str, Any]) -> FineTuned:
    """A model of the described architecture, for `weights.fill`."""
    try:
        architecture = description["architecture"]
        encoder = encoder_of(config_of(architecture["encoder"]))
        return FineTuned(encoder, Classifier(ClassifierShape(**architecture["classifier"])))
    except (KeyError, AttributeError) as error:
        raise ValueError(f"{first_line(error)} is missing or unknown in its description") from None
