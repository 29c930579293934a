"""What is clustered to make targets, and how.

Shapes: N utterances, K clusters, D features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from distill.adaptation.kmeans import MAX_CLUSTERS
from distill.adaptation.mfcc import STEP, WIDTH, WINDOW, check_rate
from distill.adaptation.utterances import Utterances
from distill.checkpoints.codebooks import digest, encoder_identity
from distill.errors import DataError
from distill.hashing import hash_number
from distill.hubert import HubertConfig, HubertEncoder


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Features and k-means; other targets come of any other value.

    Raises:
        ValueError: for a value out of range, a layer without an encoder or the reverse, a layer that the
            encoder does not have, or a model whose frames MFCC do not fit.
        DataError: for a codebook of another width.
    """

    n_clusters: int
    """K; HuBERT used 100 for MFCC, 500 for layers."""
    seed: int
    """Of the sample and the k-means."""
    encoder: HubertEncoder | None = None
    """The model whose features are clustered; None for MFCC."""
    layer: int | None = None
    """Of the encoder, 1 is the first."""
    model: HubertConfig | None = None
    """Whose frames get the labels of MFCC; default: HuBERT base's, at 50 Hz. Those of a layer are at its
    encoder's own rate."""
    codebook: Tensor | None = None
    """(K, D), label with these clusters instead of fitting new ones."""
    sample_hours: float = 100.0
    """The k-means is fitted on frames of random utterances of about this many hours in all."""
    max_fit_frames: int = 500_000
    """And on a random choice of at most so many of their frames: 100 a second of MFCC, 50 of most layers."""

    def __post_init__(self) -> None:
        if (self.encoder is None) != (self.layer is None):
            raise ValueError("encoder and layer go together: give both, or neither for MFCC")
        if self.encoder is None:
            check_rate(self.config)
        elif self.layer is not None and not 1 <= self.layer <= self.config.layers:
            raise ValueError(f"layer must be in 1..{self.config.layers}, not {self.layer}")
        if not 1 <= self.n_clusters <= MAX_CLUSTERS:
            raise ValueError(f"n_clusters must be in 1..{MAX_CLUSTERS}, not {self.n_clusters}")
        if self.max_fit_frames < self.n_clusters:
            raise ValueError(
                f"max_fit_frames is {self.max_fit_frames}, fewer than the {self.n_clusters} clusters"
            )
        if self.sample_hours <= 0:
            raise ValueError(f"sample_hours must be positive, not {self.sample_hours}")
        wanted = (self.n_clusters, self.width)
        if self.codebook is not None and self.codebook.shape != wanted:
            what = "MFCC" if self.layer is None else self.features
            raise DataError(
                f"the codebook is {tuple(self.codebook.shape)}, but {self.n_clusters} clusters of {what} "
                f"need {wanted}: it was made of other features"
            )

    @property
    def config(self) -> HubertConfig:
        """Of the model whose frames get labels."""
        return self.encoder.config if self.encoder is not None else self.model or HubertConfig()

    @property
    def features(self) -> str:
        """Their name: "mfcc" or, for example, "layer 6"."""
        return "mfcc" if self.layer is None else f"layer {self.layer}"

    @property
    def width(self) -> int:
        """D."""
        return WIDTH if self.encoder is None else self.config.dim

    @property
    def min_samples(self) -> int:
        """Samples that an utterance must have: for a frame of the model and, with MFCC, for one of those."""
        return max(WINDOW, self.config.receptive_field) if self.layer is None else self.config.receptive_field

    def frames(self, n_samples: np.ndarray) -> np.ndarray:
        """(N,) samples -> (N,) frames of features."""
        frames = (n_samples - WINDOW) // STEP + 1 if self.layer is None else self.config.frames(n_samples)
        return np.where(n_samples < self.min_samples, 0, frames)

    def frames_to_sample(self, utterances: Utterances) -> np.ndarray:
        """(N,) how many frames of each utterance the k-means is fitted on.

        Utterances are chosen by a hash of their id; of all frames of the chosen, `max_fit_frames` are shared
        out in proportion to the lengths, to the frame.
        """
        frames = self.frames(utterances.n_samples)
        share = self.sample_hours / utterances.hours if utterances.hours else 1.0
        if share < 1.0:
            hashes = [hash_number(self.seed, "k-means", name) for name in utterances.ids]
            frames[np.array(hashes, np.float64) / 2.0**64 >= share] = 0
        total = int(frames.sum())
        if total <= self.max_fit_frames:
            return frames
        ends = np.cumsum(frames) * self.max_fit_frames // total
        return np.diff(ends, prepend=0)

    def settings(self, utterances: Utterances) -> dict[str, Any]:
        """What targets depend on, in plain values: others must not be taken for them."""
        frames, usual = ((c.hop, c.receptive_field) for c in (self.config, HubertConfig()))
        other_frames = {} if frames == usual else {"frames": list(frames)}  # not noted at 50 Hz, as ever
        return other_frames | {
            "features": self.features,
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            "speech": utterances.digest(),
            "weights": None if self.encoder is None else encoder_identity(self.encoder),
            "codebook": None if self.codebook is None else digest([self.codebook]),
            "sample_hours": self.sample_hours,
        }
