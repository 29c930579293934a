"""What audio is called: the same wherever it lies, another with other samples."""

import os
import shutil
import tarfile

import numpy as np
import pytest
import soundfile
from lhotse import MonoCut, Recording
from lhotse.audio import AudioSource
from lhotse.utils import fastcopy

from distill.data import contents
from distill.data.contents import contents_of
from distill.data.sources import open_cuts
from distill.errors import DataError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "abc":
        soundfile.write(folder / f"{name}.wav", 0.1 * generator.standard_normal(8000), 16_000)
    return folder


def name_of(folder, *, in_full=True):
    return contents_of(list(open_cuts(folder)), in_full=in_full)


@pytest.mark.parametrize("in_full", [True, False])
def test_a_move_changes_nothing_and_a_sample_does(folder, tmp_path, in_full):
    before = name_of(folder, in_full=in_full)
    for way in (
        lambda: shutil.copytree(folder, tmp_path / "copy"),
        lambda: folder.rename(tmp_path / "moved"),
    ):
        assert name_of(way(), in_full=in_full) == before
    wave, _ = soundfile.read(tmp_path / "moved" / "b.wav", dtype="int16")
    wave[1234] += 1
    state = os.stat(tmp_path / "moved" / "b.wav")
    soundfile.write(tmp_path / "moved" / "b.wav", wave, 16_000)
    os.utime(tmp_path / "moved" / "b.wav", ns=(state.st_atime_ns, state.st_mtime_ns))
    assert name_of(tmp_path / "moved", in_full=in_full) != before


def test_what_is_cut_from_recordings_counts(folder):
    cuts = list(open_cuts(folder))
    before = contents_of(cuts, in_full=True)
    first = cuts[0]
    others = [
        [fastcopy(first, id="d"), *cuts[1:]],
        [first.truncate(offset=0.1, duration=0.2, preserve_id=True), *cuts[1:]],
        [fastcopy(first, channel=1), *cuts[1:]],
        [fastcopy(first, recording=first.recording.resample(8000)), *cuts[1:]],
        [first.mix(cuts[1], offset_other_by=0.1, snr=10, preserve_id="left"), *cuts[1:]],
        [first.mix(cuts[1], offset_other_by=0.1, snr=20, preserve_id="left"), *cuts[1:]],
        cuts[1:],
        cuts[::-1],
    ]
    names = [contents_of(other, in_full=True) for other in others]
    assert len({before, *names}) == 1 + len(others)
    labelled = [fastcopy(cut, custom={"label": "yes"}) for cut in cuts]
    assert contents_of(labelled, in_full=True) == before


def test_long_recordings_go_by_three_stretches_unless_read_in_full(folder, monkeypatch):
    monkeypatch.setattr(contents, "_SHORT", 4096)
    monkeypatch.setattr(contents, "_STRETCH", 512)
    before = {in_full: name_of(folder, in_full=in_full) for in_full in (True, False)}
    whole = (folder / "a.wav").read_bytes()
    for place, told in ((200, True), (3000, False), (len(whole) // 2, True), (len(whole) - 10, True)):
        changed = bytearray(whole)
        changed[place] ^= 1
        (folder / "a.wav").write_bytes(changed)
        assert name_of(folder) != before[True]
        assert (name_of(folder, in_full=False) != before[False]) == told


def test_shards_and_other_machines(folder, tmp_path):
    """Of a shard the bytes of the recording count, of an address its last part."""

    def of(kind: str, place) -> str:
        source = AudioSource(kind, [0], place)
        cut = MonoCut("a", 0, 0.5, 0, recording=Recording("a", [source], 16_000, 8000, 0.5))
        return contents_of([cut], in_full=True)

    names = set()
    for tar in (tmp_path / "x.tar", tmp_path / "y.tar"):
        with tarfile.open(tar, "w") as shard:
            for file in ("c.wav", "a.wav") if tar.name == "x.tar" else ("a.wav",):
                shard.add(folder / file, file)
        with tarfile.open(tar) as shard:
            member = shard.getmember("a.wav")
        names.add(of("shar", f"{tar}#{member.offset_data}+{member.size}"))
    assert len(names) == 1 and of("shar", f"{tmp_path}/x.tar#512+{member.size}") not in names
    assert of("url", "https://a.org/x/a.wav") == of("url", "s3://b/a.wav") != of("url", "s3://b/c.wav")
    assert of("shar", "s3://b/x.tar#512+100") == of("shar", "s3://c/x.tar#512+100")
    assert of("memory", b"12345") == of("memory", b"12345") != of("memory", b"12346")


def test_a_file_that_is_not_there_is_named(folder):
    cuts = list(open_cuts(folder))
    (folder / "b.wav").unlink()
    with pytest.raises(DataError, match=r"b\.wav does not exist"):
        contents_of(cuts, in_full=True)


def test_only_files_are_opened(folder):
    """A pipe would hang, whoever asks what the audio holds."""
    cuts = list(open_cuts(folder))
    unlike = contents_of(cuts, in_full=True, missing_ok=True)
    (folder / "b.wav").unlink()
    os.mkfifo(folder / "b.wav")
    with pytest.raises(DataError, match=r"b\.wav is a pipe, not a file"):
        contents_of(cuts, in_full=True)
    assert contents_of(cuts, in_full=True, missing_ok=True) != unlike


def test_a_url_of_this_machine_is_a_file(folder):
    def of(kind: str, place: str) -> str:
        source = AudioSource(kind, [0], place)
        cut = MonoCut("a", 0, 0.5, 0, recording=Recording("a", [source], 16_000, 8000, 0.5))
        return contents_of([cut], in_full=True)

    assert of("url", f"file://{folder}/a.wav") == of("file", f"{folder}/a.wav")
    assert of("url", f"file://{folder}/b.wav") != of("file", f"{folder}/a.wav")


def test_what_has_not_changed_is_not_read_again(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = name_of(folder)
    assert not (tmp_path / "cache").exists()  # so little is read at once
    monkeypatch.setattr(contents, "_WORTH_KEEPING", 0)
    assert name_of(folder) == before
    read, calls = contents._read, []
    monkeypatch.setattr(contents, "_read", lambda *given: calls.append(given) or read(*given))
    assert name_of(folder) == before and not calls
    os.utime(folder / "a.wav")
    assert name_of(folder) == before and len(calls) == 3
    for file in (tmp_path / "cache" / "robust-distilhubert" / "contents").iterdir():
        file.write_text("damaged")
    assert name_of(folder) == before and len(calls) == 6
