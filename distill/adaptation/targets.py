"""Cluster numbers for masked prediction, and how they lie on disk.

Shapes: F frames of the encoder, D features, K clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.atomic import read_json
from distill.data.arrays import DAMAGED, read_array, read_arrays
from distill.errors import DataError, first_line
from distill.hashing import hash_files
from distill.hubert import HubertConfig
from distill.waveforms import SAMPLE_RATE


@dataclass
class Targets:
    """Labels of a corpus and the codebook that gave them."""

    codebook: Tensor
    """(K, D) float32, cluster centres."""
    labels: dict[str, np.ndarray]
    """Utterance id -> (F,) int16, one for each frame of a model."""
    features: str
    """What was clustered: "mfcc", or "layer 6"."""
    seed: int
    """Of the k-means."""
    hop: int = HubertConfig().hop
    """Samples from one of those frames to the next."""
    receptive_field: int = HubertConfig().receptive_field
    """Samples that such a frame sees."""

    @property
    def frame_rate_hz(self) -> float:
        """Labels a second."""
        return SAMPLE_RATE / self.hop

    @property
    def n_clusters(self) -> int:
        """K."""
        return len(self.codebook)

    @property
    def n_frames(self) -> int:
        """Labelled frames."""
        return sum(map(len, self.labels.values()))

    def counts(self) -> np.ndarray:
        """(K,) frames of each cluster."""
        total = np.zeros(self.n_clusters, np.int64)
        for labels in self.labels.values():  # utterance by utterance: a copy of all would double the memory
            total += np.bincount(labels, minlength=self.n_clusters)
        return total

    @classmethod
    def load(cls, folder: str | Path) -> Targets:
        """Read what `make_targets` wrote, of this version or an earlier one; nothing in it is unpickled.

        Raises:
            DataError: if a file is missing or damaged, or they do not belong together.
        """
        folder = Path(folder)
        try:
            description = read_json(folder / "targets.json")
            codebook = read_array(folder / "codebook.npy")
            labels: dict[str, np.ndarray] = {}
            for name in description.get("shards", ["labels.npz"]):
                labels |= _read_labels(folder / Path(name).name, len(codebook))
            consistent = (
                len(codebook) == description["n_clusters"]
                and len(labels) == description["utterances"]
                and sum(map(len, labels.values())) == description["frames"]
            )
            if not consistent:
                raise ValueError("its files do not belong together")
            if description.get("codebook_hash", wanted := hash_codebook(folder)) != wanted:
                raise ValueError("codebook.npy has changed since it was written")
            known = {key: int(description[key]) for key in ("hop", "receptive_field") if key in description}
            if any(value < 1 for value in known.values()):
                raise ValueError("its frames have no length")
            features, seed = description["features"], description["seed"]
            return cls(torch.from_numpy(codebook), labels, features, seed, **known)
        except FileNotFoundError as error:
            raise DataError(
                f"{folder}: no complete k-means targets ({Path(error.filename).name} is missing): "
                "make them with `distill adapt targets`"
            ) from None
        except DAMAGED as error:
            raise DataError(
                f"{folder}: damaged k-means targets ({first_line(error)}): make them again with "
                "`distill adapt targets`"
            ) from None


def hash_codebook(folder: Path) -> str:
    """What `targets.json` notes of the codebook: labels have checksums of their own, a .npy file has none."""
    return hash_files([folder / "codebook.npy"], digest_size=16)


def frame_facts(hop: int, receptive_field: int) -> dict[str, Any]:
    """What `targets.json` says of the frames that have the labels."""
    return {"frame_rate_hz": SAMPLE_RATE / hop, "hop": hop, "receptive_field": receptive_field}


def pack_labels(labels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays `ids`, `lengths` and `labels` for a .npz.

    One flat array: a zip entry for each of a corpus's utterances would be slow to write and read.
    """
    return {
        "ids": np.array(list(labels), dtype=np.str_),
        "lengths": np.array([len(x) for x in labels.values()], np.int64),
        "labels": np.concatenate([np.zeros(0, np.int16), *labels.values()]),
    }


def _read_labels(path: Path, n_clusters: int) -> dict[str, np.ndarray]:
    """Undo `pack_labels`. Raises ValueError if the arrays do not fit each other or the codebook."""
    arrays = read_arrays(path)
    ids, lengths, flat = arrays["ids"], arrays["lengths"], arrays["labels"]
    if (ids.dtype.kind, lengths.dtype.kind, flat.dtype.kind) != ("U", "i", "i"):
        raise ValueError("its arrays are of other types")
    in_range = not len(flat) or (flat.min() >= 0 and flat.max() < n_clusters)
    fit = ids.ndim == lengths.ndim == flat.ndim == 1 and len(ids) == len(lengths)
    if not fit or (lengths < 0).any() or lengths.sum() != len(flat) or not in_range:
        raise ValueError("its files do not belong together")
    ends = np.cumsum(lengths)
    return {
        name: flat[end - length : end] for name, end, length in zip(ids.tolist(), ends, lengths, strict=True)
    }
