"""Lists and transcripts of corpora as editors, spreadsheets and other systems leave them."""

import json

import pytest

from distill.data_prep import PUBLISHED
from distill.errors import DataError

LINE = "TURN IT UP\u2028PLEASE\x0cNOW"
BOM = "\ufeff"


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def found(corpus, root, split):
    return PUBLISHED[corpus].find(root, split)


def test_librispeech(tmp_path):
    chapter = tmp_path / "dev-clean/84/121"
    put(chapter / "84-121.trans.txt", f"{BOM}84-121-0000 {LINE}\r\n\r\n84-121-0001 YES\r\n")
    put(chapter / "._84-121.trans.txt", b"\0\5\x16\7")
    clips = found("librispeech", tmp_path, "dev-clean")
    assert [(clip.id, clip.text) for clip in clips] == [("84-121-0000", LINE), ("84-121-0001", "YES")]
    put(chapter / "84-121.trans.txt", "84-121-0000 YES\n\n84-121-0001\n")
    with pytest.raises(
        DataError, match="84-121.trans.txt: line 3, '84-121-0001', is not of the form NAME TEXT"
    ):
        found("librispeech", tmp_path, "dev-clean")
    put(chapter / "84-121.trans.txt", "84-121-0000 CAFÉ\n".encode("latin1"))
    with pytest.raises(DataError, match=r"84-121.trans.txt is not UTF-8 \(line 1\)"):
        found("librispeech", tmp_path, "dev-clean")


def test_timit(tmp_path):
    speaker = tmp_path / "TRAIN/DR1/FCJF0"
    for suffix, text in (
        ("WAV", ""),
        ("TXT", f"{BOM}0 800 She had."),
        ("WRD", f"{BOM}0 400 she\r\n400 800 had\r\n\r\n"),
        ("PHN", "0 400 sh\n400 800 iy\n\n"),
    ):
        put(speaker / f"SX1.{suffix}", text)
    put(speaker / "._SX1.WAV", b"\0\5\x16\7")
    (clip,) = found("timit", tmp_path, "train")
    assert clip.text == "She had." and [symbol for symbol, _, _ in clip.alignment["word"]] == ["she", "had"]
    put(speaker / "SX1.PHN", "0 400 sh\n\n400 iy\n")
    with pytest.raises(DataError, match="SX1.PHN: line 3, '400 iy', is not of the form FIRST LAST SYMBOL"):
        found("timit", tmp_path, "train")


@pytest.mark.parametrize("start", ["", BOM])
@pytest.mark.parametrize("cell", [",", ";"])
def test_fsd50k(tmp_path, start, cell):
    (tmp_path / "FSD50K.dev_audio").mkdir()
    labels = '"Crowd,Boom"' if cell == "," else "Crowd,Boom"
    rows = [["fname", "labels", "mids", "split"], ["64", labels, "/m/1", "train"]]
    put(tmp_path / "FSD50K.ground_truth/dev.csv", start + "".join(cell.join(row) + "\r\n" for row in rows))
    (clip,) = found("fsd50k", tmp_path, "dev")
    assert (clip.id, clip.custom) == ("64", {"labels": ("Crowd", "Boom")})


def test_tables_of_other_columns_or_rows(tmp_path):
    (tmp_path / "FSD50K.dev_audio").mkdir()
    put(tmp_path / "FSD50K.ground_truth/dev.csv", "name,labels\n64,Boom\n")
    with pytest.raises(DataError, match="dev.csv: no column 'fname' in its header .name, labels"):
        found("fsd50k", tmp_path, "dev")
    put(tmp_path / "data/train_data.csv", ",path,speakerId,transcription,action,object,location\n0,a.wav,s\n")
    with pytest.raises(DataError, match="train_data.csv: line 2 has 3 cells, its header has 7"):
        found("fluent_commands", tmp_path, "train")


def test_slurp(tmp_path):
    audio = tmp_path / "audio/slurp_real"
    audio.mkdir(parents=True)
    entry = {"sentence": LINE, "action": "set", "scenario": "alarm", "intent": "alarm_set"}
    entry |= {"recordings": [{"file": "a.flac"}]}
    line = json.dumps(entry, ensure_ascii=False)
    put(tmp_path / "dataset/slurp/devel.jsonl", f"{BOM}{line}\n\n{line}\n")
    (clip,) = found("slurp", tmp_path, "devel")
    assert clip.text == LINE
    put(tmp_path / "dataset/slurp/devel.jsonl", f"{line}\n\n{json.dumps(entry | {'action': 'query'})}\n")
    with pytest.raises(DataError, match="devel.jsonl: line 3 says otherwise of a than a line before it"):
        found("slurp", tmp_path, "devel")


def test_chime3_iemocap_and_the_lists_of_speech_commands(tmp_path):
    audio = tmp_path / "chime/data/audio/16kHz/isolated/et05_bus_real"
    put(audio / "M05_440C0201_BUS.CH5.wav", "")
    dots = tmp_path / "chime/data/transcriptions/et05_real.dot_all"
    put(dots, f"{BOM}He\u2028said (M05_440C0201_BUS)\r\n")
    (clip,) = found("chime3", tmp_path / "chime", "et05_real_ch5")
    assert clip.text == "HE SAID"
    put(dots, "He said (M05_440C0201_BUS)\nHe said M05_440C0202_BUS\n")
    with pytest.raises(DataError, match="et05_real.dot_all: line 2, .*, is not of the form TEXT"):
        found("chime3", tmp_path / "chime", "et05_real_ch5")
    notes = tmp_path / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    put(notes, f"{BOM}[6.29 - 8.23]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"Ses01F_impro01.txt is not UTF-8 \(line 1\)"):
        found("iemocap", tmp_path, "session1")
    put(notes, f"{BOM}[6.29 - 8.23]\tSes01F_impro01_F000\tneu\t[2.5, 2.5, 2.5]\n")
    assert [clip.id for clip in found("iemocap", tmp_path, "session1")] == ["Ses01F_impro01_F000"]
    put(tmp_path / "words/validation_list.txt", f"{BOM}yes/a_nohash_0.wav\r\n\r\nno/b_nohash_0.wav")
    put(tmp_path / "words/testing_list.txt", "")
    words = found("speech_commands", tmp_path / "words", "dev")
    assert [clip.id for clip in words] == ["no/b_nohash_0", "yes/a_nohash_0"]
