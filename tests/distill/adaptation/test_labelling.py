"""Blocks of targets: which utterances they are made of, and which frames are drawn."""

import numpy as np
import torch

from distill.adaptation import labelling, target_making
from distill.adaptation.labelling import LABELS, SAMPLE, TargetsMaker
from distill.adaptation.mfcc import mfcc_features
from distill.data.blocks import block_ranges
from distill.hubert import HubertConfig
from tests.distill.adaptation.small_targets import make


def job_of(cuts, folder, to_sample):
    config = HubertConfig()
    return labelling.Job(
        cuts=cuts,
        folder=folder,
        blocks=block_ranges(len(to_sample), 3),
        width=39,
        seed=3,
        config=config,
        min_samples=400,
        weights=None,
        layer=None,
        to_sample=np.array(to_sample),
    )


def test_a_block_of_the_sample_needs_only_the_utterances_that_were_chosen(cuts, tmp_path):
    job = job_of(cuts, tmp_path, [5, 0, 9, 0, 0, 0, 1, 0])
    assert [job.wanted(LABELS, block) for block in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [job.wanted(SAMPLE, block) for block in range(3)] == [[0, 2], [], [6]]
    done: list[int] = []
    for block in range(3):
        assert TargetsMaker(job)(SAMPLE, block, done.append)
    assert [len(np.load(job.path(SAMPLE, block))) for block in range(3)] == [14, 0, 1] and done == [1] * 3
    assert job.missing(SAMPLE) == [] and job.missing(LABELS) == [0, 1, 2]
    job.path(SAMPLE, 1).unlink()
    assert job.missing(SAMPLE) == [1]


def test_mfcc_are_computed_by_one_thread(cuts, tmp_path, monkeypatch):
    before, used = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(
            labelling,
            "mfcc_features",
            lambda wave: used.append(torch.get_num_threads()) or mfcc_features(wave),
        )
        TargetsMaker(job_of(cuts, tmp_path, [1] * 8))(SAMPLE, 0, lambda _: None)
        assert used == [1] * 3 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_kmeans_gets_the_sample_and_no_more(cuts, tmp_path, monkeypatch):
    seen = []

    def fit(features, n_clusters, seed):
        seen.append(features.clone())
        return features[:n_clusters]

    monkeypatch.setattr(target_making, "fit_kmeans", fit)
    everything = make(cuts, tmp_path / "all") and seen.pop()
    some = make(cuts, tmp_path / "some", max_fit_frames=100) and seen.pop()
    assert some.shape == (100, 39)
    rows = (some[:, None] == everything[None]).all(2).float()  # each is a frame of the corpus, in its order
    places = rows.argmax(1)
    assert rows.any(1).all() and (places.diff() > 0).all()
    # blocks of another size, of two utterances, sample the same
    make(cuts, tmp_path / "other", max_fit_frames=100, block_size=2)
    assert torch.equal(seen.pop(), some)
