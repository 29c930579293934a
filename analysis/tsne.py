"""t-SNE of the last layer under six kinds of speech (section 6.1, Fig. 2 of the paper).

Representations are averaged over the time of each utterance, then over the utterances of each of 100 splits
of the set: a point for each split and kind of speech. Where the points of a split coincide, the distortion
does not change the representation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from lhotse import CutSet

from distill.data.noise import NoiseReader
from distill.data.sources import open_cuts
from distill.downstream.distorted_sets import DistortedSet, find_condition
from distill.downstream.embeddings import embed_set, load_encoders
from distill.errors import UserError

logger = logging.getLogger(__name__)

KINDS = ("clean", "musan", "gaussian", "reverb", "fsd", "dns")
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")  # as in Fig. 2


def split_means(
    encoders: Mapping[str, torch.nn.Module],
    cuts: CutSet,
    noises: NoiseReader,
    *,
    splits: int = 100,
    seed: int = 0,
) -> dict[str, dict[str, np.ndarray]]:
    """Averages, (splits, D), by encoder and kind of speech.

    Kinds whose noise is not given are left out; a warning names them and the options that add them.
    """
    left_out = []
    means: dict[str, dict[str, np.ndarray]] = {name: {} for name in encoders}
    for kind in KINDS:
        if lacking := sorted(set(find_condition(kind).corpora) - noises.corpora.keys()):
            left_out.append(f"{kind} (add {' '.join(f'--noise {name}=SOURCE' for name in lacking)})")
            continue
        speech = DistortedSet(cuts, kind, noises, seed=seed, encoders=encoders.values())
        found, vectors = embed_set(encoders, speech)
        order = np.argsort([cut.id for cut in found])  # the same splits for every kind
        for name, embedded in vectors.items():
            parts = np.array_split(embedded[order], min(splits, len(order)))
            means[name][kind] = np.stack([part.mean(0) for part in parts])
    if left_out:
        logger.warning("t-SNE is without %s", ", ".join(left_out))
    return means


def project(means: Mapping[str, np.ndarray], *, seed: int = 0) -> dict[str, np.ndarray]:
    """One t-SNE of all kinds together: (splits, 2) by kind."""
    from sklearn.manifold import TSNE

    points = np.concatenate(list(means.values()))
    perplexity = min(30.0, max(2.0, (len(points) - 1) / 3))
    flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    ends = np.cumsum([len(m) for m in means.values()])[:-1]
    return dict(zip(means, np.split(flat, ends), strict=True))


def draw(projections: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> Path:
    """Draw a panel for each model, with a colour for each kind of speech; returns `out`."""
    from matplotlib.figure import Figure

    columns = min(3, len(projections))
    rows = -(-len(projections) // columns)
    figure = Figure(figsize=(4.2 * columns, 4.2 * rows + (0.6 if columns > 1 else 0.9)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(projections) :]:
        axis.axis("off")
    for axis, (model, kinds) in zip(axes.flat, projections.items(), strict=False):
        for kind, points in kinds.items():
            colour = COLOURS[KINDS.index(kind)]
            axis.scatter(*points.T, s=14, color=colour, alpha=0.75, linewidths=0, label=kind)
        axis.set(title=model, xticks=[], yticks=[])
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 3 * columns), frameon=False
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    return out


def plot(
    checkpoints: Sequence[str],
    speech: str,
    noises: Mapping[str, Sequence[str]],
    out: Path,
    *,
    seed: int = 0,
) -> Path:
    """Draw Fig. 2 of the paper for any models.

    Args:
        checkpoints: students or teachers.
        speech: manifest, TSV or folder of audio.
        noises: by corpus, sources of noise (musan, fsd, dns, rir); kinds without noise are left out.
        out: picture to write (.png, .pdf, .svg).
        seed: of distortions and t-SNE.
    """
    if out.suffix not in (".png", ".pdf", ".svg"):
        raise UserError(f"{out}: the picture must end in .png, .pdf or .svg")
    cuts, reader = open_cuts(speech), NoiseReader(noises)
    encoders = load_encoders(checkpoints)
    means = split_means(encoders, cuts, reader, seed=seed)
    return draw({name: project(kinds, seed=seed) for name, kinds in means.items()}, out)
