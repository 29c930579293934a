"""TIMIT against lhotse's recipe, and in the spellings of its copies."""

import warnings

import numpy as np
import pytest
from lhotse.recipes import prepare_timit

from distill.data_prep.mini_files import write_lines
from distill.errors import DataError
from tests.data_prep.corpora import noise, prepared, spoken


def test_timit_is_what_lhotse_finds_without_the_dialect_sentences(layouts, manifests, tmp_path):
    (tmp_path / "data").symlink_to(layouts / "TIMIT")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = prepare_timit(tmp_path, num_phones=39)
    for split in ("train", "dev", "test"):
        segments = {s.id: s for s in theirs[split.upper()]["supervisions"] if "-SA" not in s.id}
        ours = {cut.id: cut for cut in manifests("timit", split)}
        assert set(ours) == set(segments)
        for name, segment in segments.items():
            mine = spoken(ours[name])
            assert (mine.text, mine.speaker, mine.duration) == (
                segment.text,
                segment.speaker,
                segment.duration,
            )
            for tier in ("word", "phone"):
                expected = [i for i in segment.alignment[tier] if i.symbol]
                found = mine.alignment[tier]
                assert [i.symbol for i in found] == [i.symbol for i in expected]
                np.testing.assert_allclose([i.start for i in found], [i.start for i in expected], atol=1e-6)
                np.testing.assert_allclose([i.end for i in found], [i.end for i in expected], atol=1e-6)


def test_timit_in_lower_case_and_with_riff_copies(tmp_path):
    folder = tmp_path / "root" / "test" / "dr1" / "mdab0"
    for name in ("SI1039.WAV", "SI1039.WAV.wav", "sa1.wav"):
        noise(folder / name)
    write_lines(folder / "SI1039.TXT", ["0 1600 He took his mask."])
    write_lines(folder / "SI1039.WRD", ["320 800 he"])
    write_lines(folder / "SI1039.PHN", ["0 320 h#", "320 480 hv", "480 640 ax-h", "640 700 q", "700 800 tcl"])
    (cut,) = prepared("timit", tmp_path / "root", tmp_path / "out")["test"]
    assert (cut.id, spoken(cut).text) == ("MDAB0-SI1039", "He took his mask.")
    assert [item.symbol for item in spoken(cut).alignment["phone"]] == ["sil", "hh", "ah", "sil"]
    assert spoken(cut).alignment["phone"][1][:3] == ("hh", 0.02, 0.01)
    write_lines(folder / "SI1039.PHN", ["0 320 h#", "320 480 schwa"])
    with pytest.raises(DataError, match="SI1039.PHN: 'schwa' is not a phone"):
        prepared("timit", tmp_path / "root", tmp_path / "out")
    (folder / "SI1039.TXT").unlink()
    write_lines(folder / "SI1039.PHN", ["0 320 h#"])
    with pytest.raises(DataError, match="SI1039.TXT is missing"):
        prepared("timit", tmp_path / "root", tmp_path / "out")
