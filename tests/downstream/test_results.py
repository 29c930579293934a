"""What a result file holds, of this version and of earlier ones."""

import pytest

from distill.downstream.results import parse_result

EARLIER = {
    "task": "ks",
    "condition": "clean",
    "metric": "accuracy",
    "value": 90.0,
    "seed": 0,
    "fold": None,
    "lm": False,
    "features": "last",
    "model": "runs/s4",
    "checkpoint_hash": "a" * 32,
    "recipe": "s4",
    "head_steps": 200_000,
    "n_utterances": 3081,
    "versions": {"torch": "2.11.0"},
    "finished": "2026-01-01T00:00:00",
}


def test_results_of_earlier_versions_have_the_papers_protocol():
    result = parse_result(EARLIER)
    assert (result.protocol, result.variant) == ("paper", "paper")
    assert (result.dev, result.row, result.predictions) == (None, None, None)
    assert result.silent == result.settings == {}


def test_what_later_versions_add_is_read():
    more = {"protocol": "s3prl", "variant": "authors", "dev": 91, "row": "S1", "silent": {"noise": 2}}
    result = parse_result(EARLIER | more | {"predictions": "predictions/ks.tsv"})
    assert {name: getattr(result, name) for name in more} == more
    assert result.predictions == "predictions/ks.tsv"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"protocol": None}, "protocol is None"),
        ({"dev": "91"}, "dev is '91'"),
        ({"dev": float("nan")}, "dev is nan"),
        ({"silent": 2}, "silent is 2"),
    ],
)
def test_what_they_add_is_checked(wrong, text):
    with pytest.raises(ValueError, match=text):
        parse_result(EARLIER | wrong)
