"""K-means and the nearest centre, against what is known of the points."""

import pytest
import torch

from distill.adaptation.kmeans import fit_kmeans, nearest


def test_kmeans_recovers_separated_blobs():
    rng = torch.Generator().manual_seed(0)
    centres = 20.0 * torch.eye(5, 8)
    truth = torch.arange(5).repeat_interleave(200)
    features = centres[truth] + torch.randn(1000, 8, generator=rng)
    codebook = fit_kmeans(features, 5, seed=1)
    assert codebook.shape == (5, 8) and codebook.dtype == torch.float32
    distance = torch.cdist(centres, codebook)
    assert distance.min(1).values.max() < 0.5
    found, _ = nearest(features, codebook)
    assert torch.equal(distance.argmin(1)[truth], found)
    assert torch.equal(codebook, fit_kmeans(features, 5, seed=1))


def test_labels_are_the_nearest_neighbours_across_chunks(monkeypatch):
    monkeypatch.setattr("distill.adaptation.kmeans.CHUNK_FRAMES", 64)
    rng = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(1000, 8, generator=rng), torch.randn(30, 8, generator=rng)
    labels, _ = nearest(features, codebook)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, torch.cdist(features.double(), codebook.double()).argmin(1))


def test_nearest_gives_squared_distances():
    rng = torch.Generator().manual_seed(0)
    features, codebook = torch.randn(500, 8, generator=rng), torch.randn(30, 8, generator=rng)
    features[:30] = codebook
    _, distance = nearest(features, codebook)
    expected = torch.cdist(features.double(), codebook.double()).min(1).values.square()
    assert (distance - expected).abs().max() < 1e-5 and (distance >= 0).all()


def test_kmeans_refuses_bad_input():
    with pytest.raises(ValueError, match="5 clusters need as many frames"):
        fit_kmeans(torch.randn(4, 2), 5, seed=0)
    with pytest.raises(ValueError, match="finite"):
        fit_kmeans(torch.full((10, 2), float("nan")), 2, seed=0)
    with pytest.raises(ValueError, match="n_clusters"):
        fit_kmeans(torch.randn(4, 2), 40_000, seed=0)
    with pytest.raises(ValueError, match="do not fit"):
        nearest(torch.randn(4, 2), torch.randn(3, 5))
