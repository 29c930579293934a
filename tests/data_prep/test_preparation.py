"""The frame of all corpora: verification, going on after a stop, broken and missing files, shards."""

import gzip
import json
from dataclasses import replace

import pytest

from distill.data_prep import headers
from distill.data_prep.corpus import Split
from distill.data_prep.preparation import prepare
from distill.errors import DataError
from tests.data_prep.corpora import LIBRISPEECH, ids, make_librispeech


@pytest.mark.parametrize("root", ["", "LibriSpeech"])
def test_a_part_of_a_corpus_is_prepared_and_the_rest_named(tmp_path, root):
    make_librispeech(tmp_path / "root")
    result = prepare(LIBRISPEECH, tmp_path / "root" / root, tmp_path / "out")
    text = str(result)
    assert len(ids(tmp_path / "out" / "dev-clean.jsonl.gz")) == 6
    assert "train-clean-100" in result.missing and "dev-clean" not in result.missing
    assert "2703 files, 5.4 h" in text and "differs: 2697 files fewer" in text
    assert "https://www.openslr.org/12" in text and "licence: CC BY 4.0" in text
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".written.json"]


def test_a_complete_corpus_is_ok(tmp_path):
    make_librispeech(tmp_path / "root", n_files=6, seconds=0.5)
    small = replace(LIBRISPEECH, splits=(Split(name="dev-clean", files=6, hours=3 / 3600),))
    result = prepare(small, tmp_path / "root", tmp_path / "out")
    assert result.results[0].check == "ok"
    line = next(line for line in str(result).splitlines() if line.startswith("dev-clean"))
    assert line.split() == ["dev-clean", "6", "6", "0.00", "6", "files,", "0.000833333", "h", "ok"]


def test_fewer_files_than_published_are_warned_of_in_one_line(tmp_path, caplog):
    """A folder that is missing as a whole is in no list."""
    for split, n_files in (("dev-clean", 6), ("test-clean", 4), ("test-other", 2)):
        make_librispeech(tmp_path / "root", split, n_files=n_files)
    files = sorted((tmp_path / "root").rglob("*.flac"))
    files[0].write_bytes(b"not audio")  # there, though not readable
    splits = tuple(
        Split(name=name, files=n) for name, n in (("dev-clean", 6), ("test-clean", 9), ("test-other", 30))
    )
    small = replace(LIBRISPEECH, splits=splits)
    for _ in range(2):  # also where there is nothing left to do
        caplog.clear()
        prepare(small, tmp_path / "root", tmp_path / "out")
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert record.getMessage() == (
            "librispeech: fewer files than published: test-clean has 4 of 9, test-other has 2 of 30; "
            "unpack the archives again if that is not meant"
        )


def test_broken_files_are_left_out_listed_and_tried_again(tmp_path, reads):
    files = make_librispeech(tmp_path / "root")
    good = files[2].read_bytes()
    files[2].write_bytes(b"not audio")
    files[4].write_bytes(b"")
    result = prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    assert result.results[0].files == 4 and result.results[0].skipped == 2
    assert "2 unreadable files left out, see " in str(result)
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["path", str(files[2]), str(files[4])]
    files[2].write_bytes(good)
    reads.clear()
    result = prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    assert result.results[0].files == 5
    assert sorted(reads) == [files[2].name, files[4].name]  # not those that were read before
    assert len((tmp_path / "out" / "skipped.tsv").read_text().splitlines()) == 2


def test_a_split_of_broken_files_stops(tmp_path):
    for path in make_librispeech(tmp_path / "root"):
        path.write_bytes(b"not audio")
    with pytest.raises(DataError, match="dev-clean: none of its 6 files can be read"):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")


def test_an_interrupted_preparation_continues(tmp_path, monkeypatch, reads):
    files = make_librispeech(tmp_path / "root", n_files=20)
    counting = headers.read_header

    def until_ctrl_c(path):
        if len(reads) == 12:
            raise KeyboardInterrupt
        return counting(path)

    monkeypatch.setattr(headers, "read_header", until_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", jobs=1)
    assert not (tmp_path / "out" / "dev-clean.jsonl.gz").exists()
    cache = tmp_path / "out" / ".headers.jsonl"
    cache.write_text(cache.read_text() + '["/half/a/li')  # killed while it wrote
    monkeypatch.setattr(headers, "read_header", counting)
    reads.clear()
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    assert len(reads) == 8
    assert ids(tmp_path / "out" / "dev-clean.jsonl.gz") == [path.stem for path in files]


def test_a_prepared_split_is_left_alone_until_its_lists_change(tmp_path, reads):
    make_librispeech(tmp_path / "root")
    first = prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    manifest = tmp_path / "out" / "dev-clean.jsonl.gz"
    written = manifest.stat().st_mtime_ns
    reads.clear()
    again = prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    assert not reads and manifest.stat().st_mtime_ns == written
    assert str(again) == str(first)
    transcript = tmp_path / "root/LibriSpeech/dev-clean/84/0/84-0.trans.txt"
    transcript.write_text(transcript.read_text().replace("WORDS 0", "OTHER WORDS"))
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    with gzip.open(manifest, "rt") as lines:
        assert json.loads(next(lines))["supervisions"][0]["text"] == "OTHER WORDS"
    manifest.unlink()
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    assert manifest.is_file()
