"""Keyword spotting has the words and the silence that s3prl gives it."""

# pyright: reportGeneralTypeIssues=false
# (lhotse's sets can be iterated over, which their annotations do not say)

import importlib.util
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from distill.data_prep import CORPORA
from distill.data_prep.mini_files import write_lines
from tests.data_prep.corpora import noise, prepared, spoken


@pytest.fixture
def theirs():
    """s3prl's reader of the corpus, from its file: the package asks for more than is installed at times."""
    pytest.importorskip("s3prl")
    pytest.importorskip("pandas")
    spec = importlib.util.find_spec("s3prl")
    assert spec is not None and spec.submodule_search_locations
    package = types.ModuleType("theirs_corpora")
    package.__path__ = [str(Path(spec.submodule_search_locations[0]) / "dataio" / "corpus")]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.speech_commands").SpeechCommandsV1


def test_splits_are_s3prls(theirs, layouts, tmp_path):
    """Its hash in place of the lists, unknown words, background noise in train and in dev, the test set."""
    found = theirs(layouts / "speech_commands_v0.01", layouts / "speech_commands_test_set_v0.01")
    CORPORA["speech_commands"](layouts, tmp_path)
    for split, points in {"train": found.train, "dev": found.valid, "test": found.test}.items():
        ours = {}
        for cut in CutSet.from_file(tmp_path / f"{split}.jsonl.gz"):
            ours[Path(cut.recording.sources[0].source)] = cut.custom["label"]
        assert ours == {point["wav_path"]: point["class_name"] for point in points.values()}
        assert set(ours.values()) >= {"yes", "_unknown_", "_silence_"}


def test_silence_is_in_the_seconds_of_s3prls_recipe(layouts, tmp_path):
    """`superb_ks` cuts a recording at every second, in train and dev; we leave out the rest of a second."""
    CORPORA["speech_commands"](layouts, tmp_path)
    starts = []
    for split in ("train", "dev"):
        every = CutSet.from_file(tmp_path / f"{split}.jsonl.gz")
        cuts = [cut for cut in every if cut.custom["label"] == "_silence_"]
        assert len(cuts) == 2 * 3 and {cut.duration for cut in cuts} == {1.0}
        starts.append([(cut.id, cut.start) for cut in cuts])
    assert starts[0] == starts[1]


def test_speech_commands_follow_the_official_lists(tmp_path):
    home = tmp_path / "root"  # unpacked without a folder of its own
    for name in (
        "yes/aa_nohash_0",
        "yes/bb_nohash_0",
        "yes/cc_nohash_1",
        "bed/aa_nohash_0",
        "bed/bb_nohash_0",
    ):
        noise(home / f"{name}.wav")
    for name in ("running_tap", "white_noise"):
        noise(home / f"_background_noise_/{name}.wav", seconds=3.5)
    write_lines(home / "validation_list.txt", ["yes/bb_nohash_0.wav"])
    write_lines(home / "testing_list.txt", ["bed/bb_nohash_0.wav"])
    found = prepared("speech_commands", home, tmp_path / "out")
    labels = {split: Counter(cut.custom["label"] for cut in cuts) for split, cuts in found.items()}
    assert labels == {  # the test set was not downloaded
        "train": {"yes": 2, "_unknown_": 1, "_silence_": 6},
        "dev": {"yes": 1, "_silence_": 6},
        "testing_list": {"_unknown_": 1},
    }
    silence = [cut for cut in found["train"] if cut.custom["label"] == "_silence_"]
    assert [cut.start for cut in silence] == [0, 1, 2] * 2 and {cut.duration for cut in silence} == {1.0}
    assert [cut.id for cut in found["dev"] if cut.custom["label"] == "_silence_"] == [c.id for c in silence]
    assert "white_noise" in silence[5].id
    np.testing.assert_allclose(
        silence[5].load_audio()[0],
        soundfile.read(home / "_background_noise_/white_noise.wav")[0][32000:48000],
    )
    word = next(cut for cut in found["train"] if cut.id == "bed/aa_nohash_0")
    assert (spoken(word).text, spoken(word).speaker) == ("BED", "aa")


def test_speech_commands_test_set_beside_the_corpus(tmp_path):
    home, test = tmp_path / "speech_commands_v0.01", tmp_path / "speech_commands_test_set_v0.01"
    write_lines(home / "validation_list.txt", [])
    write_lines(home / "testing_list.txt", [])
    for name in ("go/aa_nohash_0", "_unknown_/dog_bb_nohash_0", "_silence_/0"):
        noise(test / f"{name}.wav")
    for root in (home, test, tmp_path):
        cuts = prepared("speech_commands", root, tmp_path / "out", splits=["test"])["test"]
        assert {cut.id: cut.custom["label"] for cut in cuts} == {
            "go/aa_nohash_0": "go",
            "_unknown_/dog_bb_nohash_0": "_unknown_",
            "_silence_/0": "_silence_",
        }
    unknown = next(cut for cut in cuts if "dog" in cut.id)
    assert (spoken(unknown).text, spoken(unknown).speaker) == ("DOG", "bb")
