"""Scores of single layers: which results count, and how layers are ranked."""

import json

import pytest
from scipy.stats import spearmanr

from distill.analysis.cca.tasks import rank_correlation, read_layer_scores
from distill.errors import UserError
from tests.downstream.made_results import write

MODELS = {"a" * 32: "t1"}


def on_layer(layer, value, **changes):
    return {"features": f"layer:{layer}", "value": value} | changes


def test_scores_are_means_over_seeds_and_higher_is_better(tmp_path):
    folder = write(
        tmp_path,
        *(on_layer(layer, 50.0 + 10 * layer + seed, seed=seed) for layer in (2, 0, 1) for seed in (0, 2)),
        {"features": "weighted_sum", "value": 75.0},
        {"features": "last", "value": 1.0},
        {"features": "finetune:layer:1", "value": 99.0},
        on_layer(0, 99.0, condition="dns"),
        on_layer(0, 99.0, checkpoint_hash="b" * 32),
        *(on_layer(layer, 20.0 - layer, task="asr", metric="wer") for layer in (0, 1)),
        on_layer(0, 1.0, task="asr", metric="wer", lm=True),
    )
    asr, ks = read_layer_scores([folder], MODELS)
    assert ks.scores == {"0": 51.0, "1": 61.0, "2": 71.0} and ks.all_layers == 75.0 and ks.best == "2"
    assert asr.scores == {"0": 80.0, "1": 81.0} and asr.all_layers is None and asr.metric == "wer"
    (dns,) = read_layer_scores([folder], MODELS, condition="dns")
    assert dns.scores == {"0": 99.0}


def test_learned_weights_are_those_of_the_models_heads(tmp_path):
    folder = write(tmp_path, on_layer(0, 50.0), on_layer(1, 60.0))
    for seed, weights, model in ((0, [0.25, 0.75], "a"), (1, [0.5, 0.5], "a"), (2, [1.0, 0.0], "b")):
        head = folder / "heads" / f"ks-weighted_sum-seed{seed}"
        head.mkdir(parents=True)
        (head / "head.json").write_text(json.dumps({"checkpoint": model * 32}))
        (head / "layer_weights.json").write_text(json.dumps({"weights": weights}))
    (ks,) = read_layer_scores([folder], MODELS)
    assert ks.weights == {"0": 0.375, "1": 0.625}


def test_the_rate_that_is_best_on_dev_counts(tmp_path):
    rates = [
        on_layer(0, value, dev=dev, settings={"lr": lr})
        for value, dev, lr in ((50.0, 90.0, 1e-3), (70.0, 80.0, 1e-4))
    ]
    (ks,) = read_layer_scores([write(tmp_path, *rates)], MODELS)
    assert ks.scores == {"0": 50.0}


def test_no_scores_of_layers_is_said(tmp_path):
    folder = write(tmp_path, {"features": "last"}, on_layer(0, 1.0, checkpoint_hash="b" * 32))
    with pytest.raises(UserError, match=r"no result is of t1 on single layers \(clean\): make some with"):
        read_layer_scores([folder], MODELS)


def test_several_protocols_are_not_averaged(tmp_path):
    folder = write(tmp_path, on_layer(0, 50.0), on_layer(0, 60.0, protocol="s3prl"))
    with pytest.raises(UserError, match="--protocol"):
        read_layer_scores([folder], MODELS)
    (ks,) = read_layer_scores([folder], MODELS, protocol="s3prl")
    assert ks.scores == {"0": 60.0}


def test_rank_correlation_is_spearmans_over_common_layers():
    one = {"cnn": 0.1, "0": 0.2, "1": 0.5, "2": 0.4, "3": 0.4}
    other = {"0": 50.0, "1": 70.0, "2": 75.0, "3": 60.0, "4": 1.0}
    expected = spearmanr([0.2, 0.5, 0.4, 0.4], [50, 70, 75, 60]).statistic
    assert rank_correlation(one, other) == pytest.approx(expected)
    assert rank_correlation(one, {"0": 1.0, "1": 2.0}) is None
    assert rank_correlation(one, dict.fromkeys("0123", 3.0)) is None
