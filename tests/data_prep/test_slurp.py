"""SLURP: requests and their recordings."""

import json

import pytest

from distill.data_prep import CORPORA
from distill.data_prep.mini_files import write_lines
from distill.errors import DataError
from tests.data_prep.corpora import noise, prepared, spoken


def test_slurp_links_requests_with_the_recordings_of_both_microphones(tmp_path):
    home = tmp_path / "root/slurp"
    for name in ("audio-1.flac", "audio-1-headset.flac", "audio--2.flac"):
        noise(home / "audio/slurp_real" / name)
    entry = {
        "slurp_id": 4489, "sentence": "wake me up at eight o'clock", "intent": "alarm_set", "action": "set",
        "scenario": "alarm", "tokens": [{"surface": "wake", "id": 0}], "entities": [],
    }  # fmt: skip
    first = entry | {"recordings": [{"file": "audio-1-headset.flac", "wer": 0}, {"file": "audio-1.flac"}]}
    second = entry | {"recordings": [{"file": "audio--2.flac"}, {"file": "audio-1.flac"}]}  # one of it twice
    write_lines(home / "dataset/slurp/devel.jsonl", [json.dumps(first), json.dumps(second)])
    cuts = {cut.id: cut for cut in prepared("slurp", tmp_path / "root", tmp_path / "out")["devel"]}
    assert set(cuts) == {"audio-1", "audio-1-headset", "audio--2"}
    assert cuts["audio-1"].custom == {"action": "set", "scenario": "alarm", "intent": "alarm_set"}
    assert spoken(cuts["audio--2"]).text == "wake me up at eight o'clock"
    assert spoken(cuts["audio--2"]).speaker is None
    metadata = {"4489": {"recordings": {"audio--2.flac": {"usrid": "FO-488"}}}}
    write_lines(home / "dataset/slurp/metadata.json", [json.dumps(metadata)])
    cuts = {cut.id: cut for cut in prepared("slurp", home, tmp_path / "out2")["devel"]}
    assert spoken(cuts["audio--2"]).speaker == "FO-488"
    write_lines(home / "dataset/slurp/devel.jsonl", [json.dumps(first), '{"sentence": "x"}'])
    with pytest.raises(DataError, match="devel.jsonl: line 2 is no entry of SLURP"):
        CORPORA["slurp"](home, tmp_path / "out")
    write_lines(home / "dataset/slurp/metadata.json", ["[]"])
    with pytest.raises(DataError, match="metadata.json: not SLURP's metadata"):
        CORPORA["slurp"](home, tmp_path / "out")
