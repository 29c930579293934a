"""What `prepared.json` remembers."""

import json

import numpy as np
import pytest
import soundfile
from lhotse import CutSet

from distill.data.audio import read_audio
from distill.data_prep import PUBLISHED, shards
from distill.data_prep.preparation import prepare
from distill.errors import DataError
from tests.data_prep.corpora import LIBRISPEECH, make_librispeech


def resampled(files, rate):
    """The same names and durations at another rate."""
    for file in files:
        soundfile.write(file, 0.1 * np.random.default_rng(1).standard_normal(rate // 2), rate)


def test_audio_that_changed_is_prepared_again(tmp_path, monkeypatch, caplog):
    """At another rate training would refuse every file; shards would be of the old audio."""
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    files = make_librispeech(tmp_path / "root")
    arguments = (LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    prepare(*arguments, shards=str(tmp_path / "shards"))
    write, calls = shards._write_shard, []
    monkeypatch.setattr(shards, "_write_shard", lambda *args: (calls.append(args[2]), write(*args)))
    resampled(files[1:2], 8_000)
    prepare(*arguments, shards=str(tmp_path / "shards"))
    assert "dev-clean: audio files have changed since it was prepared" in caplog.text
    cuts = list(CutSet.from_file(tmp_path / "out" / "dev-clean.jsonl.gz"))
    assert sum("source_sampling_rate" in json.dumps(cut.to_dict()) for cut in cuts) == 1
    assert [len(read_audio(cut)) for cut in cuts] == [8_000] * 6 and sorted(calls) == [0, 1, 2]
    caplog.clear()
    calls.clear()
    prepare(*arguments, shards=str(tmp_path / "shards"))
    assert "prepared again" not in caplog.text and not calls


@pytest.mark.parametrize("seconds", [0.5, 0.25])
def test_an_earlier_versions_folder_is_prepared_again_once(tmp_path, monkeypatch, caplog, seconds):
    """It does not know the state of the audio; shards are kept unless durations have changed."""
    files = make_librispeech(tmp_path / "root")
    arguments = (LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    prepare(*arguments, shards=str(tmp_path / "shards"))
    ledger = tmp_path / "out" / "prepared.json"
    about = json.loads(ledger.read_text())
    del about["splits"]["dev-clean"]["state"]
    ledger.write_text(json.dumps(about))
    soundfile.write(files[0], np.full(int(seconds * 16_000), 0.1), 16_000)
    write, calls = shards._write_shard, []
    monkeypatch.setattr(shards, "_write_shard", lambda *args: (calls.append(args[2]), write(*args)))
    for said in (1, 1):
        prepare(*arguments, shards=str(tmp_path / "shards"))
        assert caplog.text.count("by a version that did not note the state of the audio files") == said
    assert calls == ([] if seconds == 0.5 else [0])


def test_two_corpora_do_not_share_a_folder(tmp_path):
    make_librispeech(tmp_path / "root")
    prepare(LIBRISPEECH, tmp_path / "root", tmp_path / "out")
    mini = PUBLISHED["mini_librispeech"]
    make_librispeech(tmp_path / "root", "train-clean-5")
    with pytest.raises(DataError, match="out holds the manifests of librispeech; choose another --out"):
        prepare(mini, tmp_path / "root", tmp_path / "out")
