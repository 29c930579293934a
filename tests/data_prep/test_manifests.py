"""Cuts over files, and manifests that are written completely or not at all."""

import gzip
import json
from pathlib import Path

import pytest

from distill.data_prep.manifests import cut_from_file, write_cuts
from tests.data_prep.corpora import ids, tone


def test_cut_has_the_id_given_and_an_absolute_path(tmp_path, monkeypatch):
    tone(tmp_path / "sub" / "x.wav")
    monkeypatch.chdir(tmp_path)
    cut = cut_from_file(Path("sub/x.wav"))
    assert cut.recording is not None
    assert (cut.id, cut.recording.id) == ("x", "x")
    assert cut.recording.sources[0].source == str(tmp_path / "sub" / "x.wav")
    assert cut_from_file(Path("sub/x.wav"), id="other").id == "other"


def test_a_failed_write_keeps_the_old_manifest(tmp_path):
    cut = cut_from_file(tone(tmp_path / "x.wav"))
    path = tmp_path / "new" / "cuts.jsonl.gz"
    write_cuts([cut], path)

    def broken():
        yield cut
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_cuts(broken(), path)
    assert ids(path) == ["x"]
    assert list(path.parent.iterdir()) == [path]
    with gzip.open(path, "rt") as lines:
        assert json.loads(next(lines))["id"] == "x"
    with pytest.raises(ValueError, match="jsonl"):
        write_cuts([cut], tmp_path / "cuts.json")
