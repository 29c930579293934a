"""K-means: fitting a codebook, and the cluster of each frame.

Shapes: N frames, D features, K clusters.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_CLUSTERS = 2**15 - 1  # labels are stored as int16
CHUNK_FRAMES = 2**15  # distances held at once: 65 MB for 500 clusters


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


def nearest(features: Tensor, codebook: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each frame (Euclidean), (N,) int64, and the squared distance to it, (N,).

    Raises:
        ValueError: if the two have different widths.
    """
    if features.dim() != 2 or codebook.dim() != 2 or features.shape[1] != codebook.shape[1]:
        raise ValueError(f"features {tuple(features.shape)} do not fit codebook {tuple(codebook.shape)}")
    centres = codebook.to(features)
    # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 is the same for all centres
    offset = centres.square().sum(1)
    chunks = [(offset - 2 * (chunk @ centres.T)).min(1) for chunk in features.split(CHUNK_FRAMES)]
    distance = torch.cat([chunk.values for chunk in chunks]) + features.square().sum(1)
    return torch.cat([chunk.indices for chunk in chunks]), distance.clamp(min=0.0)
