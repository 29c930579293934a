"""Options of evaluations, as key=value words and back."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.downstream.options import EvaluationConfig
from distill.errors import UsageError
from distill.options import LoggingConfig

SOME_TEXT = st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12).filter(
    lambda text: "${" not in text and text != "???"
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 9),
            "lr": st.floats(1e-12, 1e3),
            "steps": st.integers(1, 10**9),
            "label": SOME_TEXT,
            "lexicon": st.lists(SOME_TEXT, min_size=1, max_size=2),
            "conditions": st.lists(st.sampled_from(["clean", "dns"]), min_size=1),
            "sources": st.dictionaries(st.sampled_from(["train-clean-100", "dev-clean"]), SOME_TEXT),
            "noises": st.dictionaries(st.sampled_from(["fsd", "dns"]), st.lists(SOME_TEXT)),
            "trainer": st.just({"devices": 2, "precision": "32"}),
            "logging": st.builds(LoggingConfig, wandb=st.sampled_from(["off", "offline"])),
            "cache": st.sampled_from(["off", "float16"]),
            "row": st.sampled_from(["S4'", "T1"]),
        },
    )
)
def test_options_become_words_and_words_the_same_options(options):
    config = EvaluationConfig(task="pr", **options)
    task, *words = config.to_words()
    assert EvaluationConfig.from_words(task, words) == config


def test_words_are_as_people_write_them():
    config = EvaluationConfig(task="ks", sources={"dev": "a.tsv?split=x"}, lr=1e-4, label="it's", cache="off")
    assert config.to_words() == ["ks", "sources.dev=a.tsv?split=x", "label=it's", "lr=0.0001"]
    assert EvaluationConfig.from_words("ks", ["seed=2"], {"seed": 1, "data": None}).seed == 2


def test_what_is_said_explicitly_wins_over_the_protocol():
    config = EvaluationConfig(task="er", protocol="s3prl", batch_size=8, every_n_steps=50)
    assert config.head_settings["batch_size"] == 8
    assert config.recipe().validation.every_n_steps == 50


def test_an_unknown_protocol_is_refused():
    with pytest.raises(UsageError, match="protocol must be paper or s3prl, not 'superb'"):
        EvaluationConfig(task="ks", protocol="superb")


def test_the_protocol_is_part_of_names_unless_it_is_the_papers():
    paper, s3prl = (EvaluationConfig(task="er", protocol=name) for name in ("paper", "s3prl"))
    assert paper.head_name(2) == "er-fold2-last-seed0"
    assert s3prl.head_name(2) == "er-fold2-last-seed0-s3prl"
    assert s3prl.result_name("2-dist", 2, lm=False) == "er-fold2-last-seed0-s3prl-2-dist.json"


@pytest.mark.parametrize(("given", "row"), [("S1", "S1"), ("s1", "S1"), ("S4'", "S4'"), ("s4_prime", "S4'")])
def test_rows_by_name(given, row):
    assert EvaluationConfig(task="ks", row=given).row == row


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"row": "S9"}, "row 'S9': the paper's tables have T1, T1', S1"),
        ({"variant": "s3prl"}, "variant must be paper or authors, not 's3prl'"),
    ],
)
def test_rows_and_variants_that_do_not_exist(options, message):
    with pytest.raises(UsageError, match=message):
        EvaluationConfig(task="ks", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "kss"}, "unknown task 'kss': did you mean 'ks'?"),
        ({"task": "ks", "features": "layer"}, "features must be last, weighted_sum or layer:K, not 'layer'"),
        (
            {"task": "asr", "lexicon": "a.txt"},
            "lexicon: asr without a language model needs none, set lm=FILE",
        ),
        ({"task": "ks", "lexicon": "a.txt"}, "lexicon: ks without a language model needs none, leave it out"),
        ({"task": "er", "folds": [6]}, "fold 6 does not exist: there are 1 to 5"),
        ({"task": "ks", "folds": [1]}, "fold 1 does not exist: ks has none"),
        ({"task": "ks", "lm": "4gram.arpa"}, "lm: ks is not decoded with a language model"),
        ({"task": "ks", "conditions": ["chime3"]}, "condition chime3 is for asr only, not for ks"),
        ({"task": "pr", "conditions": ["chime3-ch5"]}, "condition chime3-ch5 is for asr only, not for pr"),
        ({"task": "ks", "finetune": True, "cache": "float16"}, "set cache=off"),
        ({"task": "ks", "cache": "int8"}, "cache must be off, float16 or float32"),
        ({"task": "ks", "steps": 0}, "steps must be at least 1"),
        ({"task": "ks", "max_bad_fraction": 2.0}, "max_bad_fraction must be in [0, 1], not 2.0"),
        ({"task": "pr", "lexicon": 3}, "lexicon must be one file or several, [a.txt,b.txt], not 3"),
        ({"task": "ks", "lr": 0.0}, "lr must be positive"),
        ({"task": "ic", "sources": {"tset": "a.tsv"}}, "sources.tset: ic has dev, test, train, valid"),
        ({"task": "er", "sources": {"test": "a.tsv"}}, "sources.test: er has session1, session2, session3"),
        ({"task": "ks", "crop_s": -1.0}, "crop_s must be 0 (never crop) or at least 0.1 seconds, not -1.0"),
        ({"task": "ks", "trainer": {"max_steps": 3}}, "trainer.max_steps is not passed on"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        EvaluationConfig(**options)


def test_sources_by_role_and_by_name():
    roles = {"train": "a.tsv", "dev": "b.tsv", "test": "c.tsv"}
    names = {"train": "a.tsv", "valid": "b.tsv", "test": "c.tsv"}
    assert EvaluationConfig(task="ic", sources=roles).sources == names
    assert EvaluationConfig(task="ic", sources=names).sources == names
    asr = EvaluationConfig(task="asr", sources={"train": "a.tsv", "chime3-ch1": "d.tsv"})
    assert asr.sources == {"train-clean-100": "a.tsv", "chime3-ch1": "d.tsv"}
