"""Transcripts, sources and noise of tests of word errors."""

import logging

import pytest

from distill.downstream.finetuning.wer_speech import (
    SIZES,
    heard_in_training,
    open_speech,
    open_test,
    transcript,
)
from distill.downstream.paper import size_of_test
from distill.errors import DataError
from tests.downstream.finetuning.made_speech import UNITS, Test, cuts_of, write_speech


def test_transcripts_are_words_in_upper_case(tmp_path):
    (cut,) = cuts_of(write_speech(tmp_path, ["the Cat's  hat"]))
    assert transcript(cut, UNITS) == ["THE", "CAT'S", "HAT"]
    (cut,) = cuts_of(write_speech(tmp_path, ["Hello, world"]))
    with pytest.raises(DataError, match=r"u0: ',' in its transcript is none .*; normalise the text$"):
        transcript(cut, UNITS)
    (cut,) = cuts_of(write_speech(tmp_path, [""]))
    with pytest.raises(DataError, match="u0 has no transcript"):
        transcript(cut, UNITS)


def test_speech_is_sorted_and_identified_by_what_it_holds(tmp_path):
    one = open_speech([write_speech(tmp_path / "a", ["LONG", "LONGER"])], "tests.a", UNITS)
    other = open_speech([write_speech(tmp_path / "b", ["LONG", "LONGER"])], "tests.a", UNITS)
    assert one.about == other.about and [cut.id for cut in one.cuts] == ["u0", "u1"]
    changed = open_speech([write_speech(tmp_path / "b", ["LONG", "SHORT"])], "tests.a", UNITS)
    assert changed.about["test set"] != one.about["test set"]
    with pytest.raises(DataError, match=r"^tests\.a names no speech: set its sources$"):
        open_speech([], "tests.a", UNITS)
    twice = str(tmp_path / "a" / "speech.tsv")
    with pytest.raises(DataError, match="are both called u0"):
        open_speech([twice, twice], "tests.a", UNITS)


def test_a_part_of_a_published_test_set_is_warned_about(tmp_path, caplog):
    speech = write_speech(tmp_path, ["NO"])
    with caplog.at_level(logging.WARNING):
        open_test("test-other", Test([speech]), UNITS)
    assert "tests.test-other has 1 utterances, the published test set 2939" in caplog.text
    for name in ("test-other", "chime3", "chime3-ch5"):
        assert SIZES[name] == size_of_test("asr", name, None)


def test_noise_that_training_may_have_heard_is_found():
    trained = {"dns": ["data/dns/noise.jsonl.gz?part=0-0.8"]}
    tested = ["data/dns/noise.jsonl.gz?part=0.9-1", "data/other.jsonl.gz"]
    assert heard_in_training(tested, trained) == []
    for overlapping in ("data/dns/noise.jsonl.gz", "data/dns/../dns/noise.jsonl.gz?part=0.7-0.9"):
        assert heard_in_training([*tested, overlapping], trained) == [overlapping]
