"""One vector for each utterance of a distorted set, from several encoders.

Shapes: N utterances of a set, B of a batch, T samples, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import Cut
from torch import Tensor

from distill.checkpoints import inspect, load_student, load_teacher
from distill.downstream.distorted_sets import DistortedSet
from distill.encoder import Encoder
from distill.training.devices import best_device, device_of
from distill.waveforms import masked_mean


def load_encoders(checkpoints: Sequence[str]) -> dict[str, Encoder]:
    """Teachers, and students without their prediction heads, on a GPU if there is one.

    Returns:
        By the last part of their path, or by the full path where two share it.
    """
    encoders: dict[str, Encoder] = {}
    for checkpoint, name in zip(checkpoints, short_names(checkpoints), strict=True):
        info = inspect(checkpoint)
        with_heads = info.kind == "student" and info.targets is not None
        encoder = load_student(checkpoint).encoder if with_heads else load_teacher(checkpoint)
        encoders[name] = encoder.to(best_device())
    return encoders


def short_names(sources: Sequence[str]) -> list[str]:
    """The last part of each path, or the full path where two share it."""
    names = [Path(source).name for source in sources]
    return [source if names.count(name) > 1 else name for source, name in zip(sources, names, strict=True)]


@torch.no_grad()
def embed(encoder: torch.nn.Module, waveforms: Tensor, lengths: Tensor) -> Tensor:
    """The last hidden state, averaged over each utterance's valid frames. (B, T) -> (B, D)."""
    out = encoder(waveforms, lengths)
    return masked_mean(out.last_hidden_state, out.lengths)


def embed_set(encoders: Mapping[str, torch.nn.Module], dataset: DistortedSet) -> tuple[list[Cut], dict]:
    """Embed a set with several encoders; it is distorted once.

    Returns:
        Its cuts (N), and by encoder the averages over time of the last layer, (N, D) arrays.
    """
    cuts: list[Cut] = []
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in encoders}
    for batch, waveforms, lengths, _ in dataset.batches():
        cuts += batch
        for name, encoder in encoders.items():
            device = device_of(encoder)
            vectors[name].append(embed(encoder.eval(), waveforms.to(device), lengths).cpu().numpy())
    return cuts, {name: np.concatenate(parts) for name, parts in vectors.items()}
