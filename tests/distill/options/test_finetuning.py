"""Options of fine-tuning, and values that cannot be."""

import pytest

from distill.config import from_words
from distill.errors import ConfigError
from distill.options import FinetuneRecipe


def options(*words: str) -> FinetuneRecipe:
    return from_words(FinetuneRecipe, {}, words)


def test_test_sets_and_decoding():
    words = ("tests.ns.sources=[a.tsv]", "tests.ns.condition=ns", "tests.ns.snr_db=[0,30]")
    recipe = options(*words, "tests.ns.noises={dns: [b]}", "decoding.lm=4gram.arpa", "decoding.trials=16")
    test = recipe.tests["ns"]
    assert (test.sources, test.condition, test.snr_db, test.noises) == (
        ["a.tsv"],
        "ns",
        [0.0, 30.0],
        {"dns": ["b"]},
    )
    assert (recipe.decoding.beam, recipe.decoding.test_beam, recipe.decoding.trials) == (50, 500, 16)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("units=words", "units must be one of characters, subwords, not 'words'"),
        ("vocabulary=2", "vocabulary must be at least 3"),
        ("freeze_updates=-1", "freeze_updates must not be negative"),
        ("freeze_updates=20000", "must be below optim.max_steps .20000.: set a lower one, or frozen"),
        ("encoder_weight_decay=-1", "encoder_weight_decay must not be negative"),
        ("encoder.layerdrop=1", "layerdrop must be between 0 and 0.99"),
        ("masking.time_probability=1.5", r"time_probability must be in \[0, 1\]"),
        ("masking.channel_length=0", "channel_length must be at least 1"),
        ("classifier.kernel=4", "kernel must be odd"),
        ("classifier.dropout=1", r"dropout must be in \[0, 1\)"),
        ("classifier.frame_ms=0", "frame_ms must be positive"),
        ("classifier.width=0", "width and upsampling_width must be at least 1"),
        ("classifier.convolutions=-1", "convolutions must not be negative"),
        ("decoding.beam=0", "beam and test_beam must be at least 1"),
        ("tests={a: {sources: [x], snr_db: [5]}}", "snr_db must be two numbers"),
    ],
)
def test_values_that_cannot_be(word, message):
    with pytest.raises(ConfigError, match=message):
        options(word)


def test_a_frozen_encoder_needs_no_waiting():
    with pytest.raises(ConfigError, match="frozen already trains the classifier alone"):
        options("frozen=true", "freeze_updates=5")
    assert options("frozen=true").frozen
