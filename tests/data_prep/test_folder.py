"""Any folder of audio: what is found, read, skipped and split."""

import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet
from lhotse.shar import SharWriter

from distill.data.audio import read_audio
from distill.data.files import audio_files
from distill.data.sources import index_cuts
from distill.data_prep import CORPORA, folder
from distill.data_prep.manifests import cut_from_file
from distill.errors import DataError, UsageError
from tests.data_prep.corpora import tone


def fill(root, n_files):
    for i in range(n_files):
        tone(root / f"speaker{i % 3}" / f"utterance{i:03d}.wav", duration_s=0.01)
    return root


def audio(cut):
    """(C, T) as lhotse reads it."""
    samples = cut.load_audio()
    assert samples is not None
    return samples


def ids(path):
    return [cut.id for cut in CutSet.from_file(path)]


@pytest.mark.parametrize(
    "name, rate, channels",
    [
        ("a.wav", 16_000, 1),
        ("b.WAV", 44_100, 2),
        ("c.flac", 8_000, 1),
        ("d.ogg", 22_050, 1),
        ("e.mp3", 48_000, 1),
        ("f.aiff", 32_000, 6),
    ],
)
def test_any_rate_and_channel_count_loads_as_16_khz_mono(tmp_path, name, rate, channels):
    cut = cut_from_file(tone(tmp_path / name, rate=rate, channels=channels))
    samples = audio(cut)
    assert cut.sampling_rate == 16_000
    assert samples.shape == (1, cut.num_samples)
    assert cut.duration == pytest.approx(0.5, abs=0.06)  # mp3 pads
    middle = samples[0, 2000:6000]
    peak_hz = np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * 16_000 / len(middle)
    assert peak_hz == pytest.approx(440, abs=4)
    assert np.abs(middle).max() == pytest.approx(0.3, rel=0.15)


def test_opus_in_ogg_is_read(tmp_path):
    cut = cut_from_file(tone(tmp_path / "x.opus", rate=48_000, format="OGG", subtype="OPUS"))
    assert audio(cut).shape == (1, 8000)


def test_files_are_found_recursively_sorted_and_through_links(tmp_path):
    for name in ("b/2.wav", "b/1.WAV", "a.flac", ".hidden/x.wav", "b/._1.wav"):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "root" / "notes.txt").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3.ogg").touch()
    os.symlink(tmp_path / "elsewhere", tmp_path / "root" / "linked")
    os.symlink(tmp_path / "root", tmp_path / "root" / "b" / "loop")
    names = [path.relative_to(tmp_path / "root").as_posix() for path in audio_files(tmp_path / "root")]
    assert names == ["a.flac", "b/1.WAV", "b/2.wav", "linked/3.ogg"]


def test_split_by_hash_covers_everything_once(tmp_path):
    root = fill(tmp_path / "root", 60)
    summary = folder.prepare(root, tmp_path / "out", dev_fraction=0.2)
    train, dev = ids(tmp_path / "out" / "train.jsonl.gz"), ids(tmp_path / "out" / "dev.jsonl.gz")
    assert summary.splits == {"train": len(train), "dev": len(dev)}
    assert sorted(train + dev) == sorted(f"speaker{i % 3}/utterance{i:03d}" for i in range(60))
    assert 4 <= len(dev) <= 22
    assert (summary.n_files, summary.n_skipped) == (60, 0)
    assert summary.hours == pytest.approx(60 * 0.01 / 3600)
    assert (tmp_path / "out" / "skipped.tsv").read_text() == "path\treason\n"

    fill(root, 80)  # more files move none of the old ones
    folder.prepare(root, tmp_path / "out", dev_fraction=0.2)
    assert set(dev) <= set(ids(tmp_path / "out" / "dev.jsonl.gz"))
    assert set(train) <= set(ids(tmp_path / "out" / "train.jsonl.gz"))
    folder.prepare(root, tmp_path / "seed1", dev_fraction=0.2, seed=1, jobs=1)
    assert set(ids(tmp_path / "seed1" / "dev.jsonl.gz")) != set(ids(tmp_path / "out" / "dev.jsonl.gz"))


@settings(max_examples=60, deadline=None)
@given(
    names=st.sets(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=30),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 9),
)
def test_every_file_is_in_one_split_and_none_is_empty(names, fraction, seed):
    cuts = {Path(name): name for name in names}
    groups, strays = folder._assign(cuts, None, fraction, seed)  # type: ignore[arg-type]
    assert not strays
    assert sorted(path for group in groups.values() for path in group) == sorted(cuts)
    assert set(groups) == ({"train", "dev"} if len(cuts) > 1 and fraction > 0 else {"train"})


def test_draws_are_uniform():
    draws = np.sort([folder._draw(Path(f"speaker/{i}.wav"), seed=0) for i in range(2000)])
    assert np.abs(draws - np.arange(2000) / 2000).max() < 1.63 / np.sqrt(2000)  # Kolmogorov-Smirnov, 1 %


def test_split_folders_become_the_splits(tmp_path):
    root = tmp_path / "root"
    for name in ("train/a/1.wav", "train/a/2.wav", "dev/1.wav", "test/1.wav", "spare/1.wav"):
        tone(root / name, duration_s=0.01)
    summary = folder.prepare(root, tmp_path / "out")
    assert summary.splits == {"train": 2, "dev": 1, "test": 1}
    assert ids(tmp_path / "out" / "train.jsonl.gz") == ["train/a/1", "train/a/2"]
    assert summary.n_skipped == 1
    assert "spare/1.wav\toutside the split folders" in (tmp_path / "out" / "skipped.tsv").read_text()


def test_split_option_puts_everything_into_one_manifest(tmp_path):
    root = fill(tmp_path / "root", 6)
    folder.prepare(root, tmp_path / "out")
    summary = CORPORA["folder"](root, tmp_path / "out", split="noise")
    assert summary.splits == {"noise": 6}
    assert {path.name for path in (tmp_path / "out").glob("*.gz")} == {
        "train.jsonl.gz",
        "dev.jsonl.gz",
        "noise.jsonl.gz",
    }


def test_an_earlier_split_of_the_folder_is_removed(tmp_path):
    root = fill(tmp_path / "root", 6)
    folder.prepare(root, tmp_path / "out", dev_fraction=0.5)
    assert folder.prepare(root, tmp_path / "out", dev_fraction=0).splits == {"train": 6}
    assert not (tmp_path / "out" / "dev.jsonl.gz").exists()


def test_unreadable_empty_and_ambiguous_files_are_listed(tmp_path):
    root = tmp_path / "root"
    tone(root / "good.wav")
    tone(root / "twice.flac")
    tone(root / "twice.wav")
    (root / "broken.wav").write_bytes(b"RIFF but not really")
    (root / "nothing.flac").touch()
    soundfile.write(root / "silent.wav", np.zeros(0), 16_000)
    summary = folder.prepare(root, tmp_path / "out", dev_fraction=0)
    assert (summary.n_files, summary.n_skipped) == (2, 4)
    assert ids(tmp_path / "out" / "train.jsonl.gz") == ["good", "twice"]
    lines = (tmp_path / "out" / "skipped.tsv").read_text().splitlines()
    reasons = dict(line.split("\t") for line in islice(lines, 1, None))
    assert list(reasons) == ["broken.wav", "nothing.flac", "silent.wav", "twice.wav"]
    assert "cannot be read" in reasons["broken.wav"]
    assert "holds no samples" in reasons["silent.wav"]
    assert "twice.flac" in reasons["twice.wav"]


def test_a_name_that_is_not_utf8_is_skipped(tmp_path):
    root = fill(tmp_path / "root", 2)
    bad = os.fsencode(root) + b"/caf\xe9.wav"
    try:
        Path(os.fsdecode(bad)).write_bytes((root / "speaker0" / "utterance000.wav").read_bytes())
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    summary = folder.prepare(root, tmp_path / "out")
    assert (summary.n_files, summary.n_skipped) == (2, 1)
    assert "not UTF-8" in (tmp_path / "out" / "skipped.tsv").read_text()


def test_missing_empty_and_hopeless_folders_are_data_errors(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        folder.prepare(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no audio; name a folder"):
        folder.prepare(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "x.wav").write_bytes(b"no")
    with pytest.raises(DataError, match=r"none of its 1 audio files .*skipped.tsv"):
        folder.prepare(tmp_path / "empty", tmp_path / "out")
    assert "x.wav" in (tmp_path / "out" / "skipped.tsv").read_text()


def test_without_a_root_the_error_names_the_option(tmp_path):
    with pytest.raises(UsageError, match="--root"):
        CORPORA["folder"](None, tmp_path / "out")


@pytest.mark.parametrize("split", ["a/b", "", "..", ".x", "a\\b", "a b"])
def test_a_split_is_a_plain_word(tmp_path, split):
    with pytest.raises(UsageError, match="--split .*: a manifest's name is a plain word"):
        folder.prepare(fill(tmp_path / "root", 1), tmp_path / "out", split=split)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_all_channels_are_averaged_as_in_a_folder_that_is_a_source(tmp_path, rate):
    """A file whose first channel is silent is not silent."""
    wave = 0.4 * np.sin(np.arange(rate) / 20)
    (tmp_path / "root").mkdir()
    soundfile.write(tmp_path / "root" / "a.wav", np.stack([np.zeros(rate), wave], 1), rate, subtype="FLOAT")
    folder.prepare(tmp_path / "root", tmp_path / "out")
    prepared = index_cuts([str(tmp_path / "out" / "train.jsonl.gz")])[0]
    direct = index_cuts([str(tmp_path / "root")])[0]
    for start, count in ((0, None), (3_000, 2_000)):
        samples = read_audio(prepared, start, count)
        assert float(samples.abs().max()) == pytest.approx(0.2, rel=0.05)
        inner = slice(100, len(samples) - 100)  # two resamplers differ at the ends
        assert torch.allclose(samples[inner], read_audio(direct, start, count)[inner], atol=2e-3)
    (tmp_path / "root" / "a.wav").write_bytes(b"")
    soundfile.write(tmp_path / "root" / "a.wav", wave, 8_000)  # the rate of all channels' file is checked
    with pytest.raises(DataError, match=f"its file has 8000 Hz, its manifest says {rate}"):
        read_audio(prepared)


def test_several_channels_go_through_shards(tmp_path):
    soundfile.write(
        tone(tmp_path / "root" / "a.wav"), np.stack([np.zeros(8_000), np.full(8_000, 0.5)], 1), 16_000
    )
    folder.prepare(tmp_path / "root", tmp_path / "out")
    (tmp_path / "shards" / "train").mkdir(parents=True)
    write = SharWriter(str(tmp_path / "shards" / "train"), fields={"recording": "flac"}, shard_size=3)
    with write as writer:
        for cut in CutSet.from_file(tmp_path / "out" / "train.jsonl.gz"):
            writer.write(cut)
    CORPORA["shar"](tmp_path / "shards", tmp_path / "sharded")
    sharded = index_cuts([str(tmp_path / "sharded" / "train.jsonl.gz")])[0]
    torch.testing.assert_close(read_audio(sharded), torch.full((8_000,), 0.25), atol=1e-4, rtol=0)


@pytest.mark.parametrize("options", [{"dev_fraction": 1.0}, {"dev_fraction": -0.1}, {"jobs": 0}])
def test_wrong_options_are_named(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        folder.prepare(tmp_path, tmp_path / "out", **options)


def test_the_summary_counts_hours_of_audio_at_any_rate(tmp_path):
    tone(tmp_path / "root" / "a.wav", rate=8000, duration_s=2.0)
    tone(tmp_path / "root" / "b.wav", rate=44_100, duration_s=1.0)
    assert folder.prepare(tmp_path / "root", tmp_path / "out").hours * 3600 == pytest.approx(3, abs=1e-3)
