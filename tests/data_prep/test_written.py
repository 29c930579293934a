"""`data prepare` replaces and deletes what it wrote, and nothing else."""

import json
import os

import pytest

from distill.cli import main
from distill.data_prep import CORPORA, mini, mini_layouts
from distill.data_prep.preparation import prepare
from distill.data_prep.written import Written
from distill.errors import DataError
from tests.data_prep.corpora import LIBRISPEECH, make_librispeech, tone


@pytest.fixture
def speech(tmp_path):
    for number in range(4):
        tone(tmp_path / "speech" / f"{number}.wav", duration_s=0.05)
    return tmp_path / "speech"


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["train.jsonl.gz", "dev.jsonl.gz", "test.jsonl.gz", "skipped.tsv"])
def test_a_file_of_somebody_else_stays(speech, tmp_path, name, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"mine")
    assert main(["data", "prepare", "folder", "--root", str(speech), "--out", str(out)]) == 1
    assert f"{name} was not prepared here, and is not overwritten" in capsys.readouterr().err
    assert files_of(out) == {name: b"mine"}


def test_what_was_prepared_is_prepared_again(speech, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        assert CORPORA["folder"](speech, out).n_files == 4
    tone(speech / "more.wav", duration_s=0.05)
    assert CORPORA["folder"](speech, out).n_files == 5
    assert CORPORA["folder"](speech, out, split="all").n_files == 5
    (out / "train.jsonl.gz").write_bytes(b"edited")
    with pytest.raises(DataError, match=r"train.jsonl.gz was changed since it was prepared"):
        CORPORA["folder"](speech, out)
    assert (out / "train.jsonl.gz").read_bytes() == b"edited"


def test_links_are_not_written_through(speech, tmp_path):
    out = tmp_path / "out"
    CORPORA["folder"](speech, out)
    (tmp_path / "victim").write_text("mine")
    (out / "train.jsonl.gz").unlink()
    (out / "train.jsonl.gz").symlink_to(tmp_path / "victim")
    with pytest.raises(DataError, match="is not overwritten"):
        CORPORA["folder"](speech, out)
    assert (tmp_path / "victim").read_text() == "mine"


def test_a_folder_of_an_earlier_version_is_prepared_again(speech, tmp_path):
    CORPORA["folder"](speech, tmp_path / "out")
    (tmp_path / "out" / ".written.json").unlink()
    assert CORPORA["folder"](speech, tmp_path / "out").n_files == 4


def test_manifests_of_a_published_corpus(tmp_path):
    make_librispeech(tmp_path / "root")
    out = tmp_path / "out"
    out.mkdir()
    (out / "dev-clean.jsonl.gz").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"dev-clean.jsonl.gz was not prepared here"):
        prepare(LIBRISPEECH, tmp_path / "root", out)
    assert files_of(out) == {"dev-clean.jsonl.gz": b"mine"}
    (out / "dev-clean.jsonl.gz").unlink()
    prepare(LIBRISPEECH, tmp_path / "root", out)
    (out / ".written.json").unlink()  # as of an earlier version
    about = json.loads((out / "prepared.json").read_text())
    about["splits"]["dev-clean"]["state"] = "other"
    (out / "prepared.json").write_text(json.dumps(about))
    prepare(LIBRISPEECH, tmp_path / "root", out)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "{}", '{"corpus": "librispeech"}', '{"corpus": "librispeech", "splits": 7}'),
        '{"corpus": "librispeech", "splits": {"dev-clean": {}}}',
        '{"corpus": "librispeech", "splits": {"dev-clean": {"digest": 1, "shards": []}}}',
        "[" * 10_000,
    ],
)
def test_a_damaged_ledger_is_said_and_made_again(tmp_path, content, caplog):
    make_librispeech(tmp_path / "root")
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    ledger = tmp_path / "out" / "prepared.json"
    good = json.loads(ledger.read_text())
    ledger.write_text(content)
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    assert json.loads(ledger.read_text()) == good
    assert "prepared.json is damaged" in caplog.text and "everything is prepared again" in caplog.text


def test_shards_of_somebody_else_stay(tmp_path):
    make_librispeech(tmp_path / "root")
    shards = tmp_path / "shards" / "librispeech" / "dev-clean"
    shards.mkdir(parents=True)
    (shards / "cuts.000007.jsonl.gz").write_bytes(b"mine")
    arguments = (LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    with pytest.raises(DataError, match="holds shards that were not written by this"):
        prepare(*arguments, shards=str(tmp_path / "shards"))
    assert files_of(shards) == {"cuts.000007.jsonl.gz": b"mine"}
    (shards / "cuts.000007.jsonl.gz").unlink()
    for _ in range(2):
        prepare(*arguments, shards=str(tmp_path / "shards"))


@pytest.mark.parametrize("name", ["audio", "speech_train.jsonl.gz", "prepared.json"])
def test_the_mini_corpora_replace_nothing(tmp_path, name):
    (tmp_path / name).write_text('{"corpus": "timit", "splits": {}}')
    with pytest.raises(DataError, match=f"{name} was not prepared here"):
        mini.prepare(tmp_path, size="tiny")
    assert os.listdir(tmp_path) == [name]


def test_layouts_replace_nothing(tmp_path):
    (tmp_path / "LibriSpeech").write_text("mine")
    with pytest.raises(DataError, match="is not empty, and nothing is overwritten"):
        mini_layouts.prepare(tmp_path)
    assert os.listdir(tmp_path) == ["LibriSpeech"]


def test_damaged_notes_mean_that_nothing_is_known_to_be_ours(tmp_path):
    (tmp_path / "a").write_text("x")
    for content in ("", "[]", '{"files": 7}', "{}"):
        (tmp_path / ".written.json").write_text(content)
        with pytest.raises(DataError, match="was not prepared here"):
            Written(tmp_path).claim(["a"])
