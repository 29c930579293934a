"""Targets of a few clusters in small blocks, and whether two are equal."""

from dataclasses import fields

import numpy as np
import torch

from distill.adaptation.clustering import Clustering
from distill.adaptation.target_making import make_targets

CLUSTERING = {field.name for field in fields(Clustering)}


def clustering(**changes):
    """Four clusters, unless something else is said."""
    return Clustering(**{"n_clusters": 4, "seed": 3, **changes})


def make(cuts, out, **changes):
    """Targets in blocks of three utterances; the changes are those of a `Clustering` or of `make_targets`."""
    what = clustering(**{name: value for name, value in changes.items() if name in CLUSTERING})
    how = {name: value for name, value in changes.items() if name not in CLUSTERING}
    return make_targets(cuts, out, what, **{"block_size": 3, "progress": False, **how})


def same(first, second):
    return (
        torch.equal(first.codebook, second.codebook)
        and list(first.labels) == list(second.labels)
        and all(np.array_equal(first.labels[name], second.labels[name]) for name in first.labels)
    )
