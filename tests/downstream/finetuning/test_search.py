"""The random search, and which decoder units get."""

import json

import pytest
import torch

from distill.downstream.decoding import LanguageModelDecoder
from distill.downstream.finetuning.search import (
    LM_WEIGHTS,
    WORD_SCORES,
    count_errors,
    draw_weights,
    make_decoder,
    random_search,
    search_options,
)
from distill.downstream.subword_search import SubwordDecoder
from distill.errors import UserError
from distill.options import DecodingConfig
from tests.downstream.finetuning.made_speech import UNITS
from tests.downstream.test_subword_search import BIGRAMS, UNIGRAMS, Pieces, arpa


def search(log, count, **changes):
    options = {"trials": 5, "first": (2.0, -1.0), "seed": 3, "settings": {"lm": "a"}} | changes
    return random_search(count, log, **options)


def test_the_best_pair_is_chosen_and_all_are_logged(tmp_path):
    tried = []

    def count(lm_weight, word_score):
        tried.append((lm_weight, word_score))
        return round(100 * abs(lm_weight - 3.0)), 400

    log = tmp_path / "trials.json"
    best = search(log, count)
    assert tried == [(2.0, -1.0), *(draw_weights(3, trial) for trial in range(5))]
    assert best.errors == min(round(100 * abs(weight - 3.0)) for weight, _ in tried)
    assert best.wer == best.errors / 4
    logged = json.loads(log.read_text())["trials"]
    assert [(trial["lm_weight"], trial["word_score"]) for trial in logged] == tried


def test_draws_depend_on_seed_and_trial_and_fill_the_ranges():
    drawn = torch.tensor([draw_weights(0, trial) for trial in range(500)])
    assert draw_weights(0, 7) == draw_weights(0, 7) != draw_weights(1, 7)
    for values, (low, high) in zip(drawn.T, (LM_WEIGHTS, WORD_SCORES), strict=True):
        assert low <= values.min() < low + 0.1 and high - 0.1 < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.3)


def test_an_interrupted_search_goes_on(tmp_path):
    log, calls = tmp_path / "trials.json", []

    def count(lm_weight, word_score):
        calls.append(lm_weight)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return round(1000 * lm_weight), 10

    with pytest.raises(KeyboardInterrupt):
        search(log, count)
    best = search(log, count)
    assert len(calls) == 7  # of six trials, the one that was interrupted twice
    assert best == search(log, count) and len(calls) == 7
    with pytest.raises(UserError, match=r"trials.json was made with other settings \(lm\)"):
        search(log, count, settings={"lm": "b"})
    other = search(log, count, settings={"lm": "a", "checkpoint_hash": "1"})
    assert len(calls) == 13 and other == best  # another model: none of the trials counts
    log.write_text("[]")
    with pytest.raises(UserError, match="is not a log of a search"):
        search(log, count)


def test_errors_of_a_decoder():
    outputs = [(torch.zeros(1, 2), ["A", "B"]), (torch.zeros(1, 2), ["C"])]
    assert count_errors(lambda _: ["A", "X", "Y"], outputs) == (2 + 3, 3)


def test_each_kind_of_units_has_its_decoder(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    lm = arpa(tmp_path / "lm.arpa", UNIGRAMS, BIGRAMS)
    kinds = {LanguageModelDecoder: UNITS, SubwordDecoder: Pieces()}
    for kind, units in kinds.items():
        options = search_options(units, DecodingConfig(), beam=7, weights=(1.0, 0.0))
        assert isinstance(make_decoder(lm, units, [], options), kind)
        assert (options.beam, options.beam_tokens) == (7, 50 if kind is SubwordDecoder else None)
