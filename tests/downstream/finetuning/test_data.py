"""Which speech is learned from, and what is said about the rest."""

import logging

import pytest

from distill.data.sources import index_cuts
from distill.downstream.finetuning.data import TranscribedSpeech, transcript_of
from distill.downstream.finetuning.units import Characters
from distill.errors import DataError
from tests.downstream.finetuning.conftest import SENTENCES, small, write_speech


def test_transcripts_by_name(spoken):
    data = TranscribedSpeech(small(spoken))
    assert data.texts["train"] == {f"u{n:02d}": s.upper() for n, s in enumerate(SENTENCES)}
    by_label = TranscribedSpeech(small(spoken, "transcripts=label"))
    assert by_label.texts == data.texts  # underscores are spaces
    with pytest.raises(DataError, match="^data.train: all 10 utterances are without a transcript: prepare"):
        TranscribedSpeech(small(spoken, "transcripts=nothing"))
    assert transcript_of(index_cuts(str(spoken))[0]) == "A CAT"


def test_what_has_no_transcript_is_left_out_and_counted(tmp_path, caplog):
    speech = write_speech(tmp_path, ["yes", "", "no"])
    with caplog.at_level(logging.WARNING):
        data = TranscribedSpeech(small(speech))
    assert "data.train: 1 of 3 utterances have no transcript and are left out (u01)" in caplog.messages
    assert list(data.texts["train"]) == ["u00", "u02"]
    assert [cut.id for cut in data.train_cuts] == ["u00", "u02"]
    assert data.speech["utterances"] == 2


def test_nothing_is_cropped(tmp_path, caplog):
    """Training leaves long utterances out; dev keeps them whole."""
    speech = write_speech(tmp_path, ["yes", "no"], seconds=(1.0, 1.2))
    longest = min(cut.duration for cut in index_cuts(str(speech)))
    with caplog.at_level(logging.WARNING):
        data = TranscribedSpeech(small(speech, f"data.max_samples={round(16_000 * longest)}"))
    assert len(data.train_cuts) == 1 and len(data.dev_cuts) == 2
    assert "1 of 2 utterances are longer than" in caplog.text
    assert [*data._dataset("dev")[0, 0, [0, 1]].lengths] == [
        round(16_000 * cut.duration) for cut in index_cuts(str(speech))
    ]
    with pytest.raises(DataError, match="^data.train: all 2 utterances are longer than data.max_samples"):
        TranscribedSpeech(small(speech, "data.max_samples=16000"))


def test_transcripts_longer_than_their_frames(spoken, caplog):
    data = TranscribedSpeech(small(spoken))
    with caplog.at_level(logging.WARNING):
        data.number(Characters(), lambda n_samples: 5)  # "it's" with a word end needs five
    needs = {f"u{n:02d}": len(s) + 1 for n, s in enumerate(SENTENCES)}
    fitting = [name for name, frames in needs.items() if frames <= 5]
    assert list(data.targets_of["train"]) == fitting == [cut.id for cut in data.train_cuts]
    short = len(SENTENCES) - len(fitting)
    assert f"data.train: the transcripts of {short} of 10 utterances need more frames" in caplog.text
    assert "do not count in the dev loss" in caplog.text
    assert len(data.dev_cuts) == 10  # its words are counted
    with pytest.raises(DataError, match="no transcript fits into the frames of its audio"):
        TranscribedSpeech(small(spoken)).number(Characters(), lambda n_samples: 1)


def test_characters_that_cannot_be_written(tmp_path, spoken, caplog):
    odd = write_speech(tmp_path, ["café", "yes"])
    with pytest.raises(DataError, match="^data.train: u00: 'É' in its transcript is none of"):
        TranscribedSpeech(small(odd)).number(Characters(), lambda n_samples: 50)
    data = TranscribedSpeech(small(spoken, f"data.dev=[{odd}]"))
    with caplog.at_level(logging.WARNING):
        data.number(Characters(), lambda n_samples: 50)
    assert "data.dev: u00: 'É'" in caplog.text and list(data.targets_of["dev"]) == ["u01"]


def test_two_utterances_of_a_name(spoken):
    with pytest.raises(DataError, match="^data.train: two utterances are called u00"):
        TranscribedSpeech(small(spoken, f"data.train=[{spoken},{spoken}]"))
