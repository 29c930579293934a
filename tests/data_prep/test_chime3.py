"""CHiME-3: its text, its channels, and missing transcripts."""

import json

import pytest

from distill.data_prep import CORPORA
from distill.data_prep.chime3 import normalise
from distill.data_prep.mini_files import write_lines
from distill.errors import DataError
from tests.data_prep.corpora import noise, prepared, spoken


@pytest.mark.parametrize(
    "written, normalised",
    [
        ('The man said ,COMMA <NOISE> "DOUBLE-QUOTE no .PERIOD', "THE MAN SAID COMMA DOUBLE QUOTE NO PERIOD"),
        ("It isn't O'Brien's twenty-one 'SINGLE-QUOTE", "IT ISN'T O'BRIEN'S TWENTY ONE SINGLE QUOTE"),
        ("*Corp.* [door_slam] A. T. and T. ~", "CORP A T AND T"),
        ("The dollar ' s  rise ?QUESTION-MARK", "THE DOLLAR S RISE QUESTION MARK"),
        ("", ""),
    ],
)
def test_chime3_text_becomes_librispeech_characters(written, normalised):
    assert normalise(written) == normalised


def test_chime3_takes_one_channel_of_real_evaluation_data(tmp_path):
    data = tmp_path / "root" / "CHiME3" / "data"
    audio = data / "audio/16kHz/isolated"
    for name in ("et05_bus_real/M05_440C0201_BUS.CH5", "et05_str_real/F06_440C0202_STR.CH5"):
        noise(audio / f"{name}.wav")
    for name in ("et05_bus_real/M05_440C0201_BUS.CH0", "et05_str_real/F06_440C0202_STR.CH0"):
        noise(audio / f"{name}.wav")
    noise(audio / "et05_bus_simu/M05_440C0201_BUS.CH5.wav")
    noise(audio / "dt05_bus_real/F01_050C0101_BUS.CH5.wav")
    notes = [
        {"speaker": "M05", "wsj_name": "440C0201", "environment": "BUS", "dot": "HELLO <NOISE>"},
        {"speaker": "F06", "wsj_name": "440C0202", "environment": "STR", "dot": "GOOD-BYE"},
    ]
    write_lines(data / "annotations/et05_real.json", [json.dumps(notes)])
    found = prepared("chime3", tmp_path / "root", tmp_path / "out")
    assert set(found) == {"et05_real_ch0", "et05_real_ch5"}
    first, second = found["et05_real_ch5"]
    assert (first.id, spoken(first).text, spoken(first).speaker) == (
        "F06_440C0202_STR.CH5",
        "GOOD BYE",
        "F06",
    )
    assert (second.custom["place"], spoken(second).text) == ("BUS", "HELLO")
    write_lines(data / "transcriptions/et05_real.dot_all", ["Other words (M05_440C0201_BUS)"])
    (cut,) = prepared("chime3", tmp_path / "root", tmp_path / "out")["et05_real_ch5"]
    assert spoken(cut).text == "OTHER WORDS"


def test_chime3_without_transcripts_says_so(tmp_path):
    noise(tmp_path / "root/data/audio/16kHz/isolated/et05_bus_real/M05_440C0201_BUS.CH5.wav")
    with pytest.raises(DataError, match="et05_real.dot_all: no such file, nor .*et05_real.json"):
        CORPORA["chime3"](tmp_path / "root", tmp_path / "out")
