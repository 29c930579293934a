"""Audio in Shar shards: lhotse wrote them, we read any utterance of them, here and by URL."""

import gzip
import tarfile

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording
from lhotse.shar import SharWriter

from distill.data import shar
from distill.data.audio import read_audio
from distill.data.sources import index_cuts, open_cuts
from distill.data_prep import CORPORA
from distill.data_prep.manifests import write_cuts
from distill.errors import DataError
from distill.preflight.survey import survey


@pytest.fixture
def speech(tmp_path):
    """Seven utterances in files of 0.3 to 0.6 s."""
    (tmp_path / "files").mkdir()
    rng = np.random.default_rng(0)
    cuts = []
    for number in range(7):
        samples = rng.uniform(-0.5, 0.5, 4_800 + 800 * number)
        path = tmp_path / f"files/u{number}.flac"
        soundfile.write(path, samples, 16_000, subtype="PCM_16")
        cuts.append(Recording.from_file(path).to_cut())
        cuts[-1].id = f"speaker.one/u{number}"
    return cuts


@pytest.fixture
def shards(speech, tmp_path):
    """Shards of three utterances, written by lhotse."""
    folder = tmp_path / "shards/train"
    folder.mkdir(parents=True)
    with SharWriter(str(folder), fields={"recording": "flac"}, shard_size=3) as writer:
        for cut in speech:
            writer.write(cut)
    return folder


@pytest.fixture
def manifest(shards, tmp_path):
    assert "7 utterances, 0.00 h, in 3 shards" in str(CORPORA["shar"](shards.parent, tmp_path / "out"))
    return tmp_path / "out/train.jsonl.gz"


def test_utterances_in_any_order_are_those_of_the_files(speech, manifest):
    cuts = index_cuts([str(manifest)])
    for number in (5, 0, 6, 3, 3):
        assert cuts[number].id == speech[number].id
        assert torch.equal(read_audio(cuts[number]), read_audio(speech[number]))
        part = read_audio(cuts[number], start=1_000, count=2_345)
        assert torch.equal(part, read_audio(speech[number], start=1_000, count=2_345)) and len(part) == 2_345


def test_the_places_are_those_that_lhotse_reads(shards, manifest):
    fields = {name: sorted(map(str, shards.glob(f"{name}.*"))) for name in ("cuts", "recording")}
    by_lhotse = {cut.id: cut for cut in CutSet.from_shar(fields=fields)}
    for cut in open_cuts(manifest):
        assert torch.equal(read_audio(cut), torch.from_numpy(by_lhotse.pop(cut.id).load_audio()[0]))
    assert not by_lhotse


def test_a_folder_of_shards_is_named_after_itself(shards, tmp_path):
    CORPORA["shar"](shards, tmp_path / "other")
    assert len(open_cuts(tmp_path / "other/train.jsonl.gz").to_eager()) == 7


def test_shards_by_url(shards, manifest, tmp_path, speech):
    pytest.importorskip("smart_open")
    tar = shards / "recording.000001.tar"
    cuts = shar.located_cuts(shards / "cuts.000001.jsonl.gz", tar, f"file://localhost{tar}")
    write_cuts(cuts, tmp_path / "by_url.jsonl.gz")
    for cut, original in zip(open_cuts(tmp_path / "by_url.jsonl.gz"), speech[3:6], strict=True):
        assert torch.equal(read_audio(cut), read_audio(original))


def test_without_smart_open_it_is_named(shards, tmp_path, monkeypatch):
    tar = shards / "recording.000000.tar"
    cut = next(shar.located_cuts(shards / "cuts.000000.jsonl.gz", tar, "s3://bucket/recording.000000.tar"))
    monkeypatch.setitem(__import__("sys").modules, "smart_open", None)
    with pytest.raises(DataError, match=r"^speaker.one/u0: s3://bucket.*without smart_open.*\[shards\]"):
        read_audio(cut)


def test_shards_that_went_away_or_are_cut_short(shards, manifest):
    last = list(open_cuts(manifest))[-1]
    tar = shards / "recording.000002.tar"
    content = tar.read_bytes()
    tar.write_bytes(content[:2_000])
    with pytest.raises(DataError, match=r"^speaker.one/u6: .*recording.000002.tar ends too early"):
        read_audio(last)
    assert survey(str(manifest), sample=100, seed=0).bad[0].endswith("its shard ends too early")
    tar.unlink()
    with pytest.raises(DataError, match="recording.000002.tar does not exist"):
        read_audio(last)
    found = survey(str(manifest), sample=100, seed=0)
    assert len(found.bad) == 1 and found.bad[0].endswith("its shard does not exist")
    tar.write_bytes(content)
    assert not survey(str(manifest), sample=100, seed=0).bad


def test_lhotses_own_lists_of_cuts_do_not_say_where_the_audio_is(shards):
    cut = next(iter(open_cuts(shards / "cuts.000000.jsonl.gz")))
    with pytest.raises(DataError, match=r"^speaker.one/u0: .*distill data prepare shar"):
        read_audio(cut)


def test_a_folder_of_shards_is_no_folder_of_audio(shards):
    with pytest.raises(DataError, match="holds Shar shards: make their manifest with distill data prepare"):
        open_cuts(shards)


@pytest.mark.parametrize("harm", ["gone", "cut", "other", "packed", "text"])
def test_broken_shards_are_refused(shards, tmp_path, harm):
    tar = shards / "recording.000001.tar"
    content = tar.read_bytes()
    if harm == "gone":
        tar.unlink()
    elif harm == "cut":
        tar.write_bytes(content[:1_024])
    elif harm == "other":
        tar.write_bytes((shards / "recording.000000.tar").read_bytes())
    elif harm == "packed":
        tar.write_bytes(gzip.compress(content))
    else:
        tar.write_text("no tar")
    with pytest.raises(
        DataError, match=r"recording.000001.tar(: not a shard|: has | does not exist)"
    ) as caught:
        CORPORA["shar"](shards.parent, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out/train.jsonl.gz").exists()


def test_an_utterance_without_audio_is_named(shards, tmp_path):
    with tarfile.open(tmp_path / "none.tar", "w") as tar:
        for suffix in ("nodata", "nometa"):
            tar.addfile(tarfile.TarInfo(f"speaker.one/u0.{suffix}"))
    with pytest.raises(DataError, match=r"speaker.one/u0 has no audio in it"):
        list(shar.located_cuts(shards / "cuts.000000.jsonl.gz", tmp_path / "none.tar", "x"))
