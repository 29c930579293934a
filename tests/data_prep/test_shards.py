"""Shards: the same speech, also after an interruption."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lhotse import CutSet

from distill.data.audio import read_audio
from distill.data_prep import CORPORA, shards
from distill.data_prep.preparation import prepare
from distill.errors import DataError, UserError
from tests.data_prep.corpora import LIBRISPEECH, make_librispeech


def read_shards(folder):
    fields = {name: sorted(map(str, Path(folder).glob(f"{name}.*"))) for name in ("cuts", "recording")}
    return {cut.id: cut for cut in CutSet.from_shar(fields=fields)}  # pyright: ignore[reportArgumentType]


def test_shards_hold_the_same_speech(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 4)
    make_librispeech(tmp_path / "root")
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=str(tmp_path / "shards"))
    assert len(list((tmp_path / "shards/librispeech/dev-clean").glob("recording.*.tar"))) == 2
    found = read_shards(tmp_path / "shards/librispeech/dev-clean")
    located = {cut.id: cut for cut in CutSet.from_file(tmp_path / "out" / "dev-clean.shards.jsonl.gz")}
    for cut in CutSet.from_file(tmp_path / "out" / "dev-clean.jsonl.gz"):
        assert found[cut.id].supervisions[0].text == cut.supervisions[0].text
        np.testing.assert_array_equal(found[cut.id].load_audio(), cut.load_audio())  # FLAC loses nothing
        assert torch.equal(read_audio(located.pop(cut.id)), read_audio(cut))
    assert not located
    assert not list((tmp_path / "shards/librispeech").glob(".*"))  # where they were made


def test_shards_are_16_khz_mono_with_classes(layouts, tmp_path):
    CORPORA["fsd50k"](layouts, tmp_path / "fsd", splits=["dev"], shards=str(tmp_path / "shards"))
    for cut in read_shards(tmp_path / "shards/fsd50k/dev").values():
        assert cut.sampling_rate == 16_000 and cut.load_audio().shape == (1, cut.num_samples)
        assert cut.custom["labels"][-1] == "Synthetic"
    CORPORA["wham"](layouts, tmp_path / "wham", splits=["tt"], shards=str(tmp_path / "shards"))
    for cut in CutSet.from_file(tmp_path / "wham" / "tt.jsonl.gz"):
        np.testing.assert_array_equal(
            read_shards(tmp_path / "shards/wham/tt")[cut.id].load_audio(), cut.load_audio()
        )


def test_stopped_sharding_continues_with_the_next_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    make_librispeech(tmp_path / "root", n_files=10)
    target = str(tmp_path / "shards")
    write, calls = shards._write_shard, []

    def failing(cuts, folder, index, part):
        calls.append(index)
        if index == 3:
            raise DataError("disk full")
        write(cuts, folder, index, part)

    monkeypatch.setattr(shards, "_write_shard", failing)
    with pytest.raises(DataError, match="disk full"):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=target, jobs=1)
    done = json.loads((tmp_path / "out/prepared.json").read_text())["splits"]["dev-clean"]["shards"]
    monkeypatch.setattr(shards, "_write_shard", lambda *args: (calls.append(args[2]), write(*args)))
    calls.clear()
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=target)
    assert (
        sorted(calls + done[f"{target}/librispeech/dev-clean"]) == [0, 1, 2, 3, 4]
        and 3 in calls
        and 0 not in calls
    )
    calls.clear()
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=target)
    assert not calls
    folder = tmp_path / "shards/librispeech/dev-clean"
    assert len(read_shards(folder)) == 10
    listed = tmp_path / "out/dev-clean.shards.jsonl.gz"
    before, n_before = listed.stat().st_mtime_ns, len(list(CutSet.from_file(listed)))
    (folder / "cuts.000001.jsonl.gz").unlink()  # lost: written again
    (folder / "cuts.000005.jsonl.gz").touch()  # of a larger corpus: removed
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=target)
    assert calls == [1]
    assert len(read_shards(folder)) == n_before == 10
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in gzip.decompress(listed.read_bytes()).decode()
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=target)
    assert sorted(calls[1:]) == [0, 1, 2, 3, 4]
    assert str(tmp_path / "elsewhere") not in gzip.decompress(listed.read_bytes()).decode()
    after = listed.stat().st_mtime_ns
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=target)
    assert after == listed.stat().st_mtime_ns > before  # nothing new: its index stays good


def test_audio_that_breaks_off_is_left_out_of_shards_with_a_warning(tmp_path, caplog):
    files = make_librispeech(tmp_path / "root", seconds=2.0)
    files[3].write_bytes(files[3].read_bytes()[:2000])  # the header is whole
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=str(tmp_path / "shards"))
    assert set(read_shards(tmp_path / "shards/librispeech/dev-clean")) == {f.stem for f in files} - {
        files[3].stem
    }
    assert f"left {files[3].stem} out of the shards" in caplog.text


def test_the_manifest_of_shards_is_never_the_manifest():
    for name in ("a.b.jsonl.gz", "a.b.jsonl"):
        assert shards.manifest_of_shards(Path("/x", name)) == Path("/x/a.b.shards.jsonl.gz")
    with pytest.raises(ValueError, match=r"named \*\.jsonl\.gz or \*\.jsonl, not a\.json"):
        shards.manifest_of_shards(Path("a.json"))


def test_shards_that_cannot_be_written(tmp_path, monkeypatch):
    make_librispeech(tmp_path / "root")
    (tmp_path / "shards/librispeech/dev-clean/recording.000000.tar").mkdir(parents=True)
    with pytest.raises(DataError, match="shards/librispeech/dev-clean: shard 0 cannot be written"):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out", shards=str(tmp_path / "shards"))
    monkeypatch.setattr(shards, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"s3://bucket/x: smart_open.*robust-distilhubert\[shards\]"):
        prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out2", shards="s3://bucket/x")
    assert not (tmp_path / "out2").exists()
