"""Where speech and noise come from: folders, tables, manifests, and parts of them."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut

from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.errors import DataError
from distill.hashing import hash_number


def ids(cuts) -> list[str]:
    return [cut.id for cut in cuts]


def refused(*sources) -> str:
    with pytest.raises(DataError) as error:
        open_cuts([str(source) for source in sources])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_is_searched_recursively(noise_folder):
    assert ids(open_cuts(noise_folder)) == ["a", "b", "deep/c", "deep/d"]


@pytest.fixture
def table(noise_folder, tmp_path) -> Path:
    rows = [("a.wav", "seen", "train"), ("b.flac", "seen", "dev"), ("deep/c.wav", "unseen", "dev")]
    lines = ["path\tset\tsplit", *("\t".join((f"{noise_folder}/{name}", *rest)) for name, *rest in rows)]
    path = tmp_path / "list.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", "abc"), ("?set=seen", "ab"), ("?set=seen&split=dev", "b"), ("?split=dev", "bc")],
)
def test_a_tsv_and_its_filters(table, query, expected):
    assert "".join(Path(name).name for name in ids(open_cuts(f"{table}{query}"))) == expected


def test_columns_of_a_tsv_are_kept(table):
    (cut,) = list(open_cuts(f"{table}?set=unseen"))
    assert cut.custom == {"set": "unseen", "split": "dev"}


def test_paths_are_relative_to_the_tsv(noise_folder, monkeypatch, tmp_path):
    path = noise_folder / "deep" / "list.tsv"
    path.write_text("path\n../a.wav\nc.wav\n")
    monkeypatch.chdir(tmp_path)
    try:
        assert [read_audio(cut).shape for cut in list(open_cuts(path))][0] == (12_000,)
    finally:
        path.unlink()


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_manifests_are_lazy_and_the_same(cuts, tmp_path, suffix):
    path = tmp_path / f"cuts.{suffix}"
    CutSet.from_cuts(list(cuts)).to_file(path)
    opened = open_cuts(path)
    assert opened.is_lazy and ids(opened) == ids(cuts)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".tsv", ""])
def test_clips_are_held_out_by_their_names(speech, tmp_path, suffix):
    recording = next(iter(open_cuts(speech))).recording
    names = [f"clip{number}" for number in range(400)]
    path = tmp_path / f"noise{suffix}"
    if suffix == ".tsv":
        path.write_text("path\tset\n" + "".join(f"{name}.wav\tseen\n" for name in names))
    if suffix in (".tsv", ""):
        folder = path if suffix == "" else tmp_path
        folder.mkdir(exist_ok=True)
        for name in names:
            soundfile.write(folder / f"{name}.wav", np.zeros(160), 16_000)
    else:
        cuts = [MonoCut(name, 0.0, recording.duration, 0, recording=recording) for name in names]
        CutSet.from_cuts(cuts).to_file(path)
    joint = "&set=seen" if suffix == ".tsv" else ""
    kept, held_out = ids(open_cuts(f"{path}?part=0-0.9{joint}")), ids(open_cuts(f"{path}?part=0.9-1{joint}"))
    assert sorted([*kept, *held_out]) == sorted(names) and 20 <= len(held_out) <= 60
    assert held_out[0] == [name for name in names if hash_number("part", name) >= 0.9 * 2**64][0]


def test_eight_one_one(speech, tmp_path):
    """Three parts, for training, dev and test, are disjoint and complete."""
    recording = next(iter(open_cuts(speech))).recording
    names = [f"clip{number}" for number in range(2000)]
    cuts = [MonoCut(name, 0.0, recording.duration, 0, recording=recording) for name in names]
    CutSet.from_cuts(cuts).to_file(tmp_path / "cuts.jsonl.gz")
    parts = [
        ids(open_cuts(f"{tmp_path}/cuts.jsonl.gz?part={part}")) for part in ("0-0.8", "0.8-0.9", "0.9-1")
    ]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert [len(part) / 2000 for part in parts] == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_parts_that_are_none(noise_folder):
    for text in ("0.9", "1-0.9", "0-2", "a-b", ""):
        assert f"part={text} must be two numbers of 0 to 1" in refused(f"{noise_folder}?part={text}")
    assert "nothing in it (or no row) matches" in refused(f"{noise_folder}?part=0-0.000001")


def test_several_sources_follow_each_other(speech, noise_folder, table, tmp_path):
    manifest = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts(list(open_cuts(speech))).to_file(manifest)
    together = open_cuts([str(noise_folder), str(manifest), f"{table}?split=train"])
    assert len(ids(together)) == 4 + 22 + 1
    assert ids(together)[:5] == ["a", "b", "deep/c", "deep/d", "u00"]


def test_sources_that_are_none(tmp_path, table, noise_folder):
    assert "no source of audio given" in refused()
    assert (
        refused(tmp_path / "none.tsv")
        == f"{tmp_path}/none.tsv does not exist; name a manifest, TSV or folder of audio"
    )
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty has no audio" in refused(tmp_path / "empty")
    assert "has no audio" in refused(f"{table}?set=other")
    assert "no column 'kind' in its header (path, set, split)" in refused(f"{table}?kind=x")
    (tmp_path / "no_path.tsv").write_text("file\tset\na.wav\tseen\n")
    assert "no column 'path' in its header (file, set)" in refused(tmp_path / "no_path.tsv")
    (tmp_path / "empty.tsv").write_text("")
    assert "no column 'path' in its header (empty file)" in refused(tmp_path / "empty.tsv")
    (tmp_path / "notes.txt").write_text("x")
    assert "expected a .jsonl.gz manifest, a .tsv or a folder" in refused(tmp_path / "notes.txt")
    assert "only the rows of a .tsv can be chosen" in refused(f"{noise_folder}?set=seen")


@pytest.mark.parametrize("content", ["not json\n", '{"a": 1}\n', "[1, 2]\n"])
def test_manifests_that_are_none(tmp_path, content):
    path = tmp_path / "cuts.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write(content)
    assert f"{path}: not a lhotse cut manifest" in refused(path)


def test_an_empty_manifest(tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    with gzip.open(path, "wt"):
        pass
    assert f"{path} has no audio" in refused(path)


def test_files_that_are_no_audio_are_refused_when_they_are_read(tmp_path):
    soundfile.write(tmp_path / "good.wav", np.zeros(800), 16_000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "folder.wav").mkdir()
    bad, good, none = open_cuts(tmp_path)
    assert read_audio(good).shape == (800,)
    for cut, why in (
        (bad, "bad: .*/bad.wav: cannot be read .Format not recognised."),
        (none, "none: .*/none.wav: holds no samples"),
    ):
        with pytest.raises(DataError, match=f"^{why}$"):
            read_audio(cut)


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("a.wav", "a.flac", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros(800), 16_000)
    assert f"{tmp_path}/a.flac and {tmp_path}/a.wav are both called a; names must differ" in refused(tmp_path)
    (tmp_path / "x.tsv").write_text("path\na.wav\nb.wav\n\na.flac\n")
    said = f"{tmp_path}/a.wav (line 2) and {tmp_path}/a.flac (line 5) are both called a"
    assert said in refused(tmp_path / "x.tsv")
