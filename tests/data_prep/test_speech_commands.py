"""Keyword spotting has the words and the silence that s3prl gives it."""

# pyright: reportGeneralTypeIssues=false
# (lhotse's sets can be iterated over, which their annotations do not say)

import importlib.util
import sys
import types
from pathlib import Path

import pytest
from lhotse import CutSet

from distill.data_prep import CORPORA


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
