"""Which frames the k-means is fitted on, and what a clustering refuses."""

import numpy as np
import pytest
import torch

from distill.adaptation.utterances import Utterances
from distill.errors import DataError
from distill.hubert import HubertConfig
from tests.distill.adaptation.small_targets import clustering


@pytest.fixture
def layer(encoder):
    """A clustering of a layer of HuBERT's frames."""
    return lambda number, **changes: clustering(encoder=encoder, layer=number, **changes)


def quarter(some, seed):
    return {"seed": seed, "sample_hours": some.hours / 4, "max_fit_frames": 10**9}


def some_utterances(n=400, seed=0):
    lengths = np.random.default_rng(seed).integers(300, 160_000, n)
    return Utterances([f"id{i}" for i in range(n)], lengths)


def test_all_frames_are_kept_where_they_are_few(layer):
    some = some_utterances()
    frames = layer(1).frames(some.n_samples)
    assert np.array_equal(frames, np.maximum((some.n_samples - 400) // 320 + 1, 0))
    assert np.array_equal(layer(1, seed=0, max_fit_frames=10**6).frames_to_sample(some), frames)


def test_exactly_max_frames_are_shared_out_in_proportion_to_lengths():
    some = some_utterances()
    frames = clustering().frames(some.n_samples)
    assert np.array_equal(frames, np.maximum((some.n_samples - 400) // 160 + 1, 0))
    keep = clustering(seed=0, max_fit_frames=5000).frames_to_sample(some)
    assert keep.sum() == 5000
    assert np.abs(keep - frames * 5000 / frames.sum()).max() <= 1
    assert (keep <= frames).all()


def test_sample_hours_choose_utterances_at_random(layer):
    some = some_utterances(4000)
    frames = layer(1).frames(some.n_samples)
    keep = layer(1, **quarter(some, 0)).frames_to_sample(some)
    chosen = keep > 0
    assert 0.22 < chosen.mean() < 0.28
    assert np.array_equal(keep[chosen], frames[chosen])
    assert not np.array_equal(chosen, layer(1, **quarter(some, 1)).frames_to_sample(some) > 0)


def test_wrong_values_are_refused_by_name(encoder):
    for wrong, match in (
        ({"encoder": encoder}, "go together"),
        ({"encoder": encoder, "layer": 3}, r"layer must be in 1\.\.2"),
        ({"n_clusters": 0}, "n_clusters"),
        ({"max_fit_frames": 2}, "max_fit_frames"),
        ({"sample_hours": 0}, "sample_hours"),
    ):
        with pytest.raises(ValueError, match=match):
            clustering(**wrong)


def test_a_codebook_of_other_features_is_refused(encoder):
    with pytest.raises(DataError, match=r"codebook is \(4, 39\), but 4 clusters of layer 1 need \(4, 32\)"):
        clustering(encoder=encoder, layer=1, codebook=torch.zeros(4, 39))


def test_mfcc_of_another_rate_are_refused():
    odd = HubertConfig(conv_layers=((8, 10, 5), (8, 3, 3), (8, 3, 7)))
    with pytest.raises(ValueError, match="MFCC are 160 samples apart, the model's frames 105"):
        clustering(model=odd)
