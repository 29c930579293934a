"""Cluster numbers for masked prediction: features, k-means, labels at the encoder's frame rate.

HuBERT's first iteration (Hsu et al. 2021, section IV-B) clusters MFCC, later ones a transformer layer of
the model trained before.

Shapes: F frames of the encoder, F' frames at 100 Hz, D features, K clusters.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.adaptation.mfcc import WINDOW, align_labels, check_rate, mfcc_features
from distill.errors import DataError, first_line
from distill.hubert import HubertConfig, HubertEncoder, HubertOutput
from distill.waveforms import SAMPLE_RATE

MAX_CLUSTERS = 2**15 - 1  # labels are stored as int16
CHUNK_FRAMES = 2**15  # distances held at once: 65 MB for 500 clusters
MAX_FRAMES = 5_000  # 100 s of HuBERT's: longer recordings go through the encoder in parts, as in fairseq


@torch.no_grad()
def layer_features(encoder: HubertEncoder, waveform: Tensor, layer: int) -> Tensor:
    """The output of one transformer layer, without dropout whatever mode the encoder is in.

    Recordings of more than MAX_FRAMES frames are encoded in equal parts, whose frames are those of the whole.

    Args:
        encoder: on any device.
        waveform: (T,) at 16 kHz.
        layer: 1 is the first; HuBERT base used 6 for its second iteration, 9 for large models. The last one
            is taken after the final layer norm of pre-norm models.

    Returns:
        (F, D) float32 on the CPU.

    Raises:
        ValueError: if there is no such layer, or the waveform is not 1-D or too short.
    """
    if not 1 <= layer <= encoder.config.layers:
        raise ValueError(f"layer must be in 1..{encoder.config.layers}, not {layer}")
    if waveform.dim() != 1:
        raise ValueError(f"waveform must be (T,), not {tuple(waveform.shape)}")
    was_training = encoder.training
    encoder.eval()
    try:
        device = next(encoder.parameters()).device
        features = [
            _layer(encoder(part[None].to(device)), layer, encoder.config.layers)[0].float().cpu()
            for part in _parts(waveform, encoder.config)
        ]
        return torch.cat(features)
    finally:
        encoder.train(was_training)


def _layer(out: HubertOutput, layer: int, layers: int) -> Tensor:
    """(B, F, D). The encoder may have been cut after the layer: then that is not the last of the model."""
    return out.last_hidden_state if layer == layers else out.hidden_states[layer]


def _parts(waveform: Tensor, config: HubertConfig) -> list[Tensor]:
    """Stretches of at most MAX_FRAMES frames that share no frame and lose none."""
    frames = config.frames(len(waveform))
    n_parts = max(1, -(-frames // MAX_FRAMES))
    starts = [frames * part // n_parts for part in range(n_parts + 1)]
    hop = config.hop
    overlap = config.receptive_field - hop  # a frame sees more than the hop to the next
    stops = [hop * start + overlap for start in starts[1:-1]] + [len(waveform)]
    return [waveform[hop * start : stop] for start, stop in zip(starts, stops, strict=False)]


def fit_kmeans(features: Tensor, n_clusters: int, seed: int) -> Tensor:
    """Cluster centres by mini-batch k-means with k-means++ starts.

    Batches of 10 000 frames and no reassignment of small clusters, as HuBERT; 5 starts instead of its 20,
    which cost most of the time at 500 clusters.

    Args:
        features: (N, D), finite.
        n_clusters: K, at most N.
        seed: of the starts and batches.

    Returns:
        The codebook, (K, D) float32.

    Raises:
        ValueError: for fewer frames than clusters, non-finite features or a wrong K.
    """
    from sklearn.cluster import MiniBatchKMeans

    if not 1 <= n_clusters <= MAX_CLUSTERS:
        raise ValueError(f"n_clusters must be in 1..{MAX_CLUSTERS}, not {n_clusters}")
    if features.dim() != 2 or len(features) < n_clusters:
        raise ValueError(f"features {tuple(features.shape)}: {n_clusters} clusters need as many frames")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features hold values that are not finite")
    kmeans = MiniBatchKMeans(
        n_clusters,
        batch_size=10_000,
        n_init=5,  # pyright: ignore[reportArgumentType] (inferred from its default, "auto")
        max_no_improvement=100,
        reassignment_ratio=0.0,
        random_state=seed,
    )
    return torch.from_numpy(kmeans.fit(features.float().numpy()).cluster_centers_).float()


def assign(features: Tensor, codebook: Tensor) -> Tensor:
    """The nearest centre of each frame (Euclidean). (N, D), (K, D) -> (N,) int64.

    Raises:
        ValueError: if the two have different widths.
    """
    return nearest(features, codebook)[0]


def nearest(features: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each frame, (N,) int64, and the squared distance to it, (N,).

    Raises:
        ValueError: as `assign`.
    """
    if features.dim() != 2 or codebook.dim() != 2 or features.shape[1] != codebook.shape[1]:
        raise ValueError(f"features {tuple(features.shape)} do not fit codebook {tuple(codebook.shape)}")
    centres = codebook.to(features)
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 is the same for all centres
    offset = centres.square().sum(1)
    chunks = [(offset - 2 * (chunk @ centres.T)).min(1) for chunk in features.split(CHUNK_FRAMES)]
    distance = torch.cat([chunk.values for chunk in chunks]) + features.square().sum(1)
    return torch.cat([chunk.indices for chunk in chunks]), distance.clamp(min=0.0)


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

    def save(self, folder: str | Path) -> None:
        """Write codebook.npy, labels.npz and, last, targets.json: without it a folder is incomplete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = folder / "targets.json"
        summary.unlink(missing_ok=True)
        np.save(folder / "codebook.npy", self.codebook.numpy())
        np.savez(folder / "labels.npz", **pack_labels(self.labels))  # pyright: ignore[reportArgumentType]
        description = {
            "format": 1,
            "features": self.features,
            "n_clusters": self.n_clusters,
            "seed": self.seed,
            **frame_facts(self.hop, self.receptive_field),
            "utterances": len(self.labels),
            "frames": self.n_frames,
        }
        summary.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Targets:
        """Read what `save` or `shards.make_shards` wrote; nothing in it is unpickled.

        Raises:
            DataError: if a file is missing or damaged, or they do not belong together.
        """
        folder = Path(folder)
        try:
            description = json.loads((folder / "targets.json").read_text(encoding="utf-8"))
            codebook = np.load(folder / "codebook.npy", allow_pickle=False)
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
        except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{folder}: damaged k-means targets ({first_line(error)}): make them again with "
                "`distill adapt targets`"
            ) from None


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
    with np.load(path, allow_pickle=False) as arrays:
        ids, lengths, flat = arrays["ids"], arrays["lengths"], arrays["labels"]
    in_range = not len(flat) or (flat.min() >= 0 and flat.max() < n_clusters)
    if len(ids) != len(lengths) or lengths.sum() != len(flat) or not in_range:
        raise ValueError("its files do not belong together")
    ends = np.cumsum(lengths)
    return {
        name: flat[end - length : end] for name, end, length in zip(ids.tolist(), ends, lengths, strict=True)
    }


def make_targets(
    utterances: Iterable[tuple[str, Tensor]],
    *,
    n_clusters: int,
    seed: int,
    encoder: HubertEncoder | None = None,
    layer: int | None = None,
    model: HubertConfig | None = None,
    codebook: Tensor | None = None,
    max_fit_frames: int = 500_000,
    progress: bool = True,
) -> Targets:
    """Cluster a corpus and label every utterance, in this process; `shards.make_shards` is for large ones.

    Args:
        utterances: (id, waveform (T,) at 16 kHz). Gone through twice, in one process: first a uniform
            sample of frames is drawn and clustered, then everything is labelled. A list or a dataset, not a
            generator; nothing but the sample and the labels is held.
        n_clusters: K; HuBERT used 100 for MFCC, 500 for layers.
        seed: of the sample and the k-means.
        encoder: the model whose features are clustered; None for MFCC.
        layer: of the encoder, 1 is the first.
        model: whose frames get the labels of MFCC; default: HuBERT base's, at 50 Hz.
        codebook: (K, D), label with these clusters instead of fitting new ones (dev sets).
        max_fit_frames: frames in the sample (100 a second of MFCC, 50 of layers); 1.5 GB for 768 features.
        progress: show bars on stderr.

    Raises:
        ValueError: for a generator, a layer without an encoder or the reverse, a K out of range, or a model
            whose frames MFCC do not fit.
        DataError: for utterances that are too short, not finite or have the same id, and for corpora with
            fewer frames than clusters.
    """
    if isinstance(utterances, Iterator):
        raise ValueError("utterances are gone through twice: pass a list or a dataset, not an iterator")
    if (encoder is None) != (layer is None):
        raise ValueError("encoder and layer go together: give both, or neither for MFCC")
    if max_fit_frames < n_clusters:
        raise ValueError(f"max_fit_frames is {max_fit_frames}, fewer than the {n_clusters} clusters")
    if encoder is None or layer is None:
        name, config, least, layered = "mfcc", model or HubertConfig(), WINDOW, mfcc_features
        check_rate(config)
    else:
        name, config, least = f"layer {layer}", encoder.config, 0
        layered = partial(layer_features, encoder, layer=layer)
    extract = partial(_extract, layered, max(least, config.receptive_field))

    if codebook is None:
        sample = _sample_frames(_bar(utterances, f"{name} features", progress), extract, max_fit_frames, seed)
        if len(sample) < n_clusters:
            raise DataError(
                f"{len(sample)} frames of {name} are too few for {n_clusters} clusters: "
                "give more utterances or ask for fewer clusters"
            )
        codebook = fit_kmeans(sample, n_clusters, seed)
    labels: dict[str, np.ndarray] = {}
    for utterance_id, waveform in _bar(utterances, "labels", progress):
        if utterance_id in labels:
            raise DataError(f"two utterances are called {utterance_id!r}: make the ids unique")
        found = assign(extract(utterance_id, waveform), codebook)
        if encoder is None:
            found = align_labels(found, config.frames(len(waveform)), config)
        labels[utterance_id] = found.to(torch.int16).numpy()
    return Targets(codebook, labels, name, seed, config.hop, config.receptive_field)


def _extract(extract: Callable[[Tensor], Tensor], least: int, utterance_id: str, waveform: Tensor) -> Tensor:
    """Features of one utterance, (F, D) or (F', D), or a DataError that names it."""
    if waveform.dim() != 1 or len(waveform) < least:
        raise DataError(
            f"utterance {utterance_id!r} has shape {tuple(waveform.shape)}: it must be one channel of at "
            f"least {least} samples at 16 kHz; leave it out"
        )
    if not bool(torch.isfinite(waveform).all()):
        raise DataError(f"utterance {utterance_id!r} holds samples that are not finite: leave it out")
    return extract(waveform)


def _sample_frames(
    utterances: Iterable[tuple[str, Tensor]],
    extract: Callable[[str, Tensor], Tensor],
    max_frames: int,
    seed: int,
) -> Tensor:
    """A uniform sample of a corpus's frames, (at most max_frames, D), in one pass (reservoir sampling).

    The first max_frames are taken; frame t after those replaces a random one with probability
    max_frames / (t + 1), which keeps every frame seen so far equally likely to be held.
    """
    generator = np.random.default_rng(seed)
    held: np.ndarray | None = None
    seen = 0
    for utterance_id, waveform in utterances:
        features = extract(utterance_id, waveform).numpy()
        if held is None:
            held = np.empty((max_frames, features.shape[1]), np.float32)
        position = np.arange(seen, seen + len(features))
        slot = np.where(position < max_frames, position, generator.integers(0, position + 1))
        kept = np.flatnonzero(slot < max_frames)
        # A slot may come twice within an utterance; numpy then keeps the last one, torch does not promise it.
        held[slot[kept]] = features[kept]
        seen += len(features)
    if held is None:
        raise DataError("there are no utterances to make targets from: check the manifest")
    return torch.from_numpy(held[: min(seen, max_frames)])


def _bar(
    utterances: Iterable[tuple[str, Tensor]], description: str, progress: bool
) -> Iterable[tuple[str, Tensor]]:
    from tqdm import tqdm

    return tqdm(
        utterances, desc=description, unit="utt", disable=None if progress else True
    )  # None: terminals only
