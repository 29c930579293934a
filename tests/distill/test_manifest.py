"""Reading a manifest by line: the same cuts as lhotse's own reader, made once, remade when it changes."""

import gzip
import json
import multiprocessing
import os

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.cut import MixedCut

from distill.audio import read_audio
from distill.errors import DataError
from distill.manifest import JoinedCuts, ListedCuts, ManifestCuts
from distill.sources import index_cuts


@pytest.fixture
def manifest(cuts, tmp_path):
    """Of the shared speech, with supervisions, odd names and a mixed cut."""
    made = list(cuts)
    made[0].supervisions = [
        SupervisionSegment(id="s", recording_id=made[0].id, start=0, duration=0.1, text='say "duration": 7')
    ]
    made[1].id = 'a "quoted" \\ näme'
    made[2].custom = {"label": "yes"}
    mixed = made[3].append(made[4])
    assert isinstance(mixed, MixedCut)
    path = tmp_path / "cuts.jsonl"
    CutSet.from_cuts([*made, mixed]).to_file(path)
    return path


def packed(path):
    with gzip.open(path.with_suffix(".jsonl.gz"), "wb") as file:
        file.write(path.read_bytes())
    return path.with_suffix(".jsonl.gz")


@pytest.mark.parametrize("prepare", [lambda path: path, packed])
def test_cuts_are_those_that_lhotse_reads(manifest, prepare):
    path = prepare(manifest)
    ours, theirs = ManifestCuts(path), list(CutSet.from_jsonl_lazy(path))
    assert len(ours) == len(theirs) == 23
    assert list(ours) == theirs and ours[7] == theirs[7]
    assert np.allclose(ours.durations(np.arange(23)), [cut.duration for cut in theirs])
    assert ours.durations(np.array([5, 2])).tolist() == pytest.approx([theirs[i].duration for i in (5, 2)])
    assert ours.seconds == pytest.approx(sum(cut.duration for cut in theirs))
    with pytest.raises(IndexError, match="no cut 23, it has 23"):
        ours[23]


def test_other_orders_of_keys_and_blank_lines(manifest):
    lines = manifest.read_text().splitlines()[:3]
    shuffled = [json.dumps(dict(reversed(json.loads(line).items()))) for line in lines]
    manifest.write_text("\n\n".join(shuffled) + "\n\n")
    assert [cut.id for cut in ManifestCuts(manifest)] == [json.loads(line)["id"] for line in lines]
    assert ManifestCuts(manifest).durations(np.arange(3)).tolist() == pytest.approx(
        [json.loads(line)["duration"] for line in lines]
    )


def test_an_index_is_made_once_and_when_the_manifest_changes(manifest):
    ManifestCuts(manifest)
    about = manifest.parent / ".index" / manifest.name / "about.json"
    made = about.stat().st_mtime_ns
    ManifestCuts(manifest)
    assert about.stat().st_mtime_ns == made
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[5:]) + "\n")
    assert len(ManifestCuts(manifest)) == 18
    assert [item.name for item in about.parents[1].iterdir() if item.is_dir()] == [manifest.name]


def test_a_folder_that_cannot_be_written(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert len(ManifestCuts(manifest)) == 23
    assert not (manifest.parent / ".index").exists()
    assert len(list((tmp_path / "cache").rglob("about.json"))) == 1


def test_lines_that_are_no_cuts(manifest):
    text = manifest.read_text()
    for broken, line in [(text + '{"id": "x"}\n', 24), (text[:-20], 23), (text.replace('{"id"', "id", 1), 1)]:
        manifest.write_text(broken)
        with pytest.raises(DataError, match=f"cuts.jsonl: line {line} is not a lhotse cut") as error:
            ManifestCuts(manifest)
        assert "\n" not in str(error.value)
        assert not list(manifest.parent.glob(".index/*/"))
    path = packed(manifest)
    manifest.write_text(text)
    path = packed(manifest)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="ends too early"):
        ManifestCuts(path)


def _length_and_first(cuts, answer) -> None:
    answer.put((len(cuts), cuts[3].id, cuts.durations(np.array([3])).tolist()))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_reads_it_too(manifest, method):
    cuts = ManifestCuts(manifest)
    expected = (23, cuts[3].id, cuts.durations(np.array([3])).tolist())
    context = multiprocessing.get_context(method)
    answer = context.Queue()
    process = context.Process(target=_length_and_first, args=(cuts, answer))
    process.start()
    assert answer.get(timeout=60) == expected
    process.join()


def test_sources_follow_each_other(manifest, speech, noise_folder):
    joined = index_cuts([str(manifest), str(speech), str(noise_folder)])
    assert isinstance(joined, JoinedCuts) and len(joined) == 23 + 22 + 4
    every = list(joined)
    assert [cut.id for cut in every[-4:]] == ["a", "b", "deep/c", "deep/d"] and every[23].id == "u00"
    numbers = np.array([48, 0, 23, 22, 44, 45])
    assert joined.durations(numbers).tolist() == pytest.approx([every[i].duration for i in numbers])
    assert joined.seconds == pytest.approx(sum(cut.duration for cut in every))
    assert isinstance(index_cuts(str(speech)), ListedCuts)


@pytest.mark.parametrize(("start", "count"), [(0, None), (1600, 3200)])
@pytest.mark.parametrize("true_rate", [8_000, 22_050, 44_100])
def test_a_file_of_another_rate_than_its_manifest_says(tmp_path, true_rate, start, count):
    soundfile.write(tmp_path / "a.wav", np.full(true_rate, 0.1), true_rate)  # 1 s
    recording = Recording.from_file(tmp_path / "a.wav")
    recording.sampling_rate, recording.num_samples = 16_000, 16_000  # as of a file that was replaced
    cut = recording.to_cut()
    assert isinstance(cut, MonoCut)
    with pytest.raises(DataError, match=rf"a: its file has {true_rate} Hz, its manifest says 16000"):
        read_audio(cut, start, count)
