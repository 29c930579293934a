"""Layers ranked by what CCA finds in them."""

import pytest

from distill.analysis.cca.ranking import rank, scores_of

WORD = {
    "cnn": [0.9, 0.9, 0.9],
    "0": [0.1, 0.2, 0.1],
    "1": [0.7, 0.8, 0.72],
    "2": [0.7, 0.81, 0.72],
    "3": [0.5, 0.6, 0.5],
}
PHONE = {
    "cnn": [0.9, 0.9, 0.9],
    "0": [0.2, 0.2, 0.2],
    "1": [0.4, 0.41, 0.4],
    "2": [0.6, 0.62, 0.6],
    "3": [0.6, 0.61, 0.6],
}


def test_words_alone_rank_for_meaning_both_for_recognition():
    recognition, meaning = rank({"phone": PHONE, "word": WORD})
    assert (recognition.use, meaning.use) == ("recognition", "meaning")
    assert [each.layer for each in meaning.layers] == ["2", "1", "3", "0"]
    assert [each.layer for each in recognition.layers] == ["2", "3", "1", "0"]
    first = recognition.layers[0]
    assert first.score == pytest.approx(1.0, abs=0.01) and list(first.by_view) == ["phone", "word"]


def test_the_cheapest_of_equally_good_layers_is_advised():
    (meaning,) = rank({"word": WORD})[1:]
    assert meaning.advice.layer == "1"
    assert [meaning.reason(each) for each in meaning.layers] == [
        "best, but not by more than the spread",
        "as good as 2 within the spread, and the cheapest that is",
        "28 % below 2",
        "82 % below 2",
    ]
    clear = rank({"word": WORD | {"1": [0.6, 0.7, 0.6]}})[1]
    assert clear.advice.layer == "2" and clear.reason(clear.layers[0]) == "best"


def test_without_words_only_recognition_is_ranked():
    assert [ranking.use for ranking in rank({"phone": PHONE})] == ["recognition"]
    assert rank({}) == []


def test_a_single_split_knows_no_spread():
    (meaning,) = rank({"word": {"0": [0.5], "1": [0.6], "2": [0.6]}})[1:]
    assert meaning.advice.layer == "1" and not meaning.layers[-1].equal


def test_scores_of_a_model_come_in_the_order_of_its_samples_and_splits():
    rows = [
        {
            "model": model,
            "view": "word",
            "layer": layer,
            "sample": sample,
            "split": split,
            "score": sample + split / 10,
        }
        for model in ("a", "b")
        for sample in (1, 0)
        for split in (2, 0, 1)
        for layer in ("1", "0")
    ]
    assert scores_of(rows, "a") == {"word": {layer: [0.0, 0.1, 0.2, 1.0, 1.1, 1.2] for layer in ("1", "0")}}
