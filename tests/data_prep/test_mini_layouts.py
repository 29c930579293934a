"""The synthetic corpora laid out as the published ones."""

import pytest

from distill.data_prep import CORPORA, PUBLISHED, mini_layouts
from tests.data_prep.corpora import spoken


def test_mini_layouts_is_a_corpus_without_a_root(tmp_path):
    pytest.importorskip("espeakng_loader")
    assert CORPORA["mini_layouts"](None, tmp_path) == tmp_path
    home = tmp_path / "speech_commands_v0.01"
    before = {path.relative_to(tmp_path): path.read_bytes() for path in home.rglob("*.wav")}
    CORPORA["mini_layouts"](None, tmp_path)  # the same files with the same samples
    assert before == {path.relative_to(tmp_path): path.read_bytes() for path in home.rglob("*.wav")}
    size_mb = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) / 1e6
    assert size_mb < 25


def test_layouts_need_a_known_name(tmp_path):
    with pytest.raises(ValueError, match="corpus must be one of librispeech, "):
        mini_layouts.write_layout("switchboard", tmp_path, tmp_path)


def test_no_speaker_of_librispeech_layouts_is_in_two_splits(manifests):
    names = [split.name for split in PUBLISHED["librispeech"].splits]
    speakers = [{spoken(cut).speaker for cut in manifests("librispeech", name)} for name in names]
    assert sum(map(len, speakers)) == len(set().union(*speakers)) == 9 + 2 + 3
