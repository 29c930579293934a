"""Utterances that cannot be used are listed, judged, and tried again."""

import shutil

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from distill.adaptation.utterances import each
from distill.data.sources import open_cuts
from distill.errors import DataError
from tests.distill.adaptation.small_targets import make


def test_unusable_utterances_are_left_out_with_a_warning(folder, tmp_path, caplog):
    speech = tmp_path / "speech"
    speech.mkdir()
    for name in ("u0", "u1", "u2"):
        (speech / f"{name}.wav").write_bytes((folder / f"{name}.wav").read_bytes())
    soundfile.write(speech / "short.wav", np.zeros(300), 16_000)
    cuts = open_cuts(str(speech))
    (speech / "u1.wav").write_bytes(b"RIFF")  # broken after the manifest was made
    found = make(cuts, tmp_path / "out")
    assert list(found.labels) == ["u0", "u2"]
    for name in ("short: shorter than one frame", "u1: cannot be read"):
        assert sum(name in record.message for record in caplog.records) == 1
    with pytest.raises(DataError, match="not one utterance could be labelled"):
        bad = CutSet([cut for cut in each(cuts) if cut.id not in found.labels])
        make(bad, tmp_path / "none", codebook=found.codebook)


def test_what_was_left_out_is_listed_judged_and_labelled_once_it_is_repaired(folder, tmp_path, caplog):
    speech = tmp_path / "speech"
    shutil.copytree(folder, speech)
    good = (speech / "u4.wav").read_bytes()
    cuts = open_cuts(str(speech))
    (speech / "u4.wav").write_bytes(b"RIFF")
    with pytest.raises(
        DataError, match=r"1 of 8 utterances cannot be used .*max_bad_fraction=0.1 .*skipped.tsv"
    ):
        make(cuts, tmp_path / "out", max_bad_fraction=0.1)
    (line,) = (tmp_path / "out/skipped.tsv").read_text().splitlines()
    assert line.startswith("u4\tcannot be read (")
    assert list(make(cuts, tmp_path / "out", max_bad_fraction=0.2).labels) == [
        f"u{i}" for i in (0, 1, 2, 3, 5, 6, 7)
    ]
    assert "1 of 8 utterances cannot be used and have no labels" in caplog.text
    before = (tmp_path / "out/labels-00000.npz").stat().st_mtime_ns
    (speech / "u4.wav").write_bytes(good)
    codebook = np.load(tmp_path / "out/codebook.npy")
    found = make(cuts, tmp_path / "out")
    assert list(found.labels) == [f"u{i}" for i in range(8)] and not (tmp_path / "out/skipped.tsv").exists()
    assert np.array_equal(found.codebook, codebook)
    assert before == (tmp_path / "out/labels-00000.npz").stat().st_mtime_ns  # it had left nothing out
