"""Which hidden states are the input of a head, and the identity of the model that they come from.

Shapes: B utterances, T samples, F frames, L + 1 hidden states, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill.checkpoints.heard import noises_heard
from distill.checkpoints.loading import load_any
from distill.encoder import Encoder, EncoderConfig, EncoderOutput
from distill.errors import UsageError
from distill.hubert import HubertConfig
from distill.hubert import beyond_weights as beyond_weights_of_hubert
from distill.spiral.encoder import SpiralConfig
from distill.spiral.encoder import beyond_weights as beyond_weights_of_spiral
from distill.student import Student


@dataclass(frozen=True)
class Upstream:
    """A model under evaluation."""

    encoder: Encoder
    """A teacher, or a student without its prediction heads; in eval mode."""
    name: str
    """Last part of the checkpoint's path."""
    checkpoint_hash: str
    """BLAKE2b of the encoder, 128 bits in hexadecimal: it changes with the features."""
    recipe: str | None
    """Recipe of the run that it comes from, if known."""
    recipe_settings: tuple[str, ...] | None = None
    """Its method (`distill.config.method`); None: not known."""
    heard: tuple[str, ...] = ()
    """Corpora of noise that it, or a teacher of it, was trained with, as far as it says."""


def load_upstream(checkpoint: str | Path) -> Upstream:
    """Load a student or a teacher of any format.

    Raises:
        CheckpointError: if it cannot be loaded.
    """
    model, provenance, recipe = load_any(checkpoint)
    encoder = model.encoder if isinstance(model, Student) else model
    path = Path(checkpoint)
    generic = ("student.safetensors", "teacher.safetensors", "student.json", "teacher.json")
    name = path.parent.name if path.name in generic else path.name
    made_by: Any = (recipe or {}).get("name") or provenance.get("recipe")
    return Upstream(
        encoder.eval(),
        name or str(checkpoint),
        hash_encoder(encoder),
        made_by,
        _texts(provenance.get("recipe_settings")),
        tuple(noises_heard(provenance, recipe)),
    )


def _texts(noted: Any) -> tuple[str, ...] | None:
    """A list of texts from a description that anybody may have written, or None."""
    return tuple(noted) if isinstance(noted, list) and all(isinstance(text, str) for text in noted) else None


def hash_encoder(encoder: Encoder) -> str:
    """BLAKE2b over names, shapes and values of all weights, and settings that affect the features."""
    return hash_weights(encoder.state_dict(), beyond_weights(encoder.config))


def beyond_weights(config: EncoderConfig) -> str:
    """What decides a model's features but is not visible in its weights."""
    if isinstance(config, SpiralConfig):
        return beyond_weights_of_spiral(config)
    assert isinstance(config, HubertConfig)
    return beyond_weights_of_hubert(config)


def hash_weights(state: Mapping[str, Tensor], settings: str = "") -> str:
    """BLAKE2b over names, shapes and values of weights, and settings; 128 bits in hexadecimal."""
    digest = hashlib.blake2b(settings.encode(), digest_size=16)
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Selection(nn.Module):
    """The hidden states that are the input of a head.

    Args:
        features: "last", "layer:K", or "weighted_sum": all, with learned weights (softmax), as s3prl's
            Featurizer. The last layer is taken after the final layer norm of pre-norm models.
        layers: L, transformer layers of the model.

    Raises:
        UsageError: for a layer that the model does not have.
    """

    def __init__(self, features: str, layers: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers + 1)) if features == "weighted_sum" else None
        self.layer = int(features.partition(":")[2]) if features.startswith("layer:") else layers
        if self.layer > layers:
            raise UsageError(
                f"features={features}: the model has layers 0 (the transformer's input) to {layers}"
            )

    @property
    def n_states(self) -> int | None:
        """L + 1 if all are used, else None."""
        return None if self.weights is None else len(self.weights)

    def select(self, out: EncoderOutput) -> Tensor:
        """What a cache keeps: (B, F, D), or (B, F, L + 1, D) for the weighted sum."""
        return out.features[self.layer] if self.weights is None else torch.stack(out.features, dim=2)

    def forward(self, selected: Tensor) -> Tensor:
        """The result of `select` -> (B, F, D)."""
        if self.weights is None:
            return selected
        return torch.einsum("bfld,l->bfd", selected, self.weights.softmax(0))
