"""Fluent Speech Commands: its slots."""

import pytest

from distill.data_prep import CORPORA
from distill.data_prep.mini_files import write_lines
from distill.errors import DataError
from tests.data_prep.corpora import noise, prepared, spoken


def test_fluent_commands_slots_and_their_join(tmp_path):
    home = tmp_path / "root"
    noise(home / "wavs/speakers/s1/ab-cd.wav")
    row = '0,wavs/speakers/s1/ab-cd.wav,s1,"Pause, please",deactivate,music,none'
    write_lines(home / "data/train_data.csv", [",path,speakerId,transcription,action,object,location", row])
    (cut,) = prepared("fluent_commands", home, tmp_path / "out")["train"]
    assert cut.custom == {
        "action": "deactivate",
        "object": "music",
        "location": "none",
        "label": "deactivate|music|none",
    }
    assert (cut.id, spoken(cut).text, spoken(cut).speaker) == ("ab-cd", "Pause, please", "s1")
    write_lines(home / "data/train_data.csv", [",path,transcription,action,object", "0,a,b,c,d"])
    with pytest.raises(DataError, match="train_data.csv: no column .speakerId., .location. in its header"):
        CORPORA["fluent_commands"](home, tmp_path / "out")
