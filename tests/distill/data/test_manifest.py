"""Reading a manifest by line: the same cuts as lhotse's own reader, made once, remade when it changes."""

import dataclasses
import gzip
import json
import multiprocessing
import os
import re
import shutil

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, SupervisionSegment
from lhotse.cut import MixedCut

from distill.data.audio import read_audio
from distill.data.datamodule import NothingUsable
from distill.data.dataset import SpeechDataset
from distill.data.manifest import JoinedCuts, ListedCuts, ManifestCuts
from distill.data.noise import NoiseReader
from distill.data.sources import index_cuts, open_cuts
from distill.data.unusable import blame, why_unusable
from distill.distortions import DistortionConfig
from distill.distortions.plan import draw
from distill.errors import DataError
from distill.preflight.survey import survey


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


BROKEN = [
    (lambda text: text + '{"id": "x"}\n', 24, "no cut"),
    (lambda text: text[:-20], 23, "not valid JSON"),
    (lambda text: text.replace('{"id"', "id", 1), 1, "not valid JSON"),
    (lambda text: "\n\n" + text.replace("MonoCut", "SomeCut", 1), 3, "no cut"),
    (lambda text: text + '{"id": "x", "sources": []}\n', 24, "a recording, not a cut"),
    (lambda text: text.replace('"duration": 0.', '"duration": NaN, "x": 0.', 1), 1, "no cut that lhotse"),
    (lambda text: text.replace('"id": "', '"id": "\\udcff', 1), 1, "not Unicode"),
    (lambda text: text.replace('"duration": 0.', '"duration": 1e300', 1), 1, "of inf seconds"),
    (lambda text: re.sub('(\n.*?)"recording": ', r'\1"custom": ', text, count=1), 2, "without a recording"),
    (lambda text: text + "[1, 2]\n", 24, "a JSON list, not a cut"),
    (lambda text: text + "[" * 100_000 + "\n", 24, "not valid JSON"),
]


@pytest.mark.parametrize("harm, line, what", BROKEN)
@pytest.mark.parametrize("prepare", [lambda path: path, packed])
def test_a_bad_line_is_one_utterance_that_cannot_be_used(manifest, harm, line, what, prepare):
    text = manifest.read_text()
    manifest.write_text(harm(text))
    path = prepare(manifest)
    for cuts in (index_cuts(str(path)), list(open_cuts(str(path)))):
        bad = [cut for cut in cuts if why_unusable(cut)]
        assert [cut.id for cut in bad] == [f"line {line} of {path.name}"]
        assert len(list(cuts)) in (23, 24)
        with pytest.raises(DataError, match=f"^[^ ]*{path.name}, line {line}: .*{what}") as error:
            read_audio(bad[0])
        assert "\n" not in str(error.value)
    found = survey(str(path), sample=None, seed=0)
    assert len(found.bad) == 1 and found.bad[0].startswith(f"{path}, line {line}: ")
    batch = SpeechDataset(index_cuts(str(path)))[0, 0, range(len(list(cuts)))]
    assert [name for name, _ in batch.skipped] == [f"line {line} of {path.name}"] and len(batch) >= 22


def test_a_bad_line_of_noise_is_lost_noise(manifest):
    manifest.write_text(manifest.read_text().splitlines()[0] + "\nbroken\n")
    reader = NoiseReader({"musan": str(manifest)})
    plan = dataclasses.replace(draw(DistortionConfig(), "u", (0,)), additive="musan", noise_choice=0.9)
    noise = reader.noise(plan, 800)
    assert noise is not None and not noise.any()
    assert reader.take_lost() == [("line 2 of cuts.jsonl", f"{manifest}, line 2: not valid JSON")]


def test_a_bad_line_is_named_once(manifest):
    name, why = "line 5 of cuts.jsonl", "/data/cuts.jsonl, line 5: not valid JSON"
    assert blame(name, why) == blame(name, why, quoted=True) == why
    assert blame(f"noise {name}", why) == why
    assert str(NothingUsable([(name, why)])).endswith(f"the last: {why}")
    assert str(NothingUsable([("missing", "gone")])).endswith("the last: 'missing': gone")
    manifest.write_text("broken\n")
    with pytest.raises(DataError, match=r"not a lhotse cut manifest \(line 1: not valid JSON\)$"):
        open_cuts(str(manifest))


@pytest.mark.parametrize("n_bytes", [15, 300, -30, -1])
def test_a_manifest_that_is_cut_off_is_refused(manifest, n_bytes):
    path = packed(manifest)
    path.write_bytes(path.read_bytes()[:n_bytes])
    for read in (ManifestCuts, lambda path: list(open_cuts(path)), index_cuts):
        with pytest.raises(
            DataError,
            match=r"cuts.jsonl.gz: (is cut off after line|not a lhotse cut .*; copy or prepare it again$)",
        ) as error:
            read(path)
        assert "\n" not in str(error.value)
    assert not list(manifest.parent.glob(".index/*/"))
    assert "cut" in survey(str(path), sample=None, seed=0).error


def test_several_compressed_files_in_one(manifest):
    path = packed(manifest)
    path.write_bytes(2 * path.read_bytes())
    assert len(index_cuts(str(path))) == len(list(open_cuts(str(path)))) == 46


OTHERS = {
    "recording": {"id": "a", "sources": [], "sampling_rate": 16_000, "num_samples": 1, "duration": 1.0},
    "supervision": {"id": "a", "recording_id": "a", "start": 0, "duration": 1},
    "NeMo": {"audio_filepath": "a.wav", "duration": 1.0, "text": "a"},
    "features": {"type": "fbank", "num_features": 80, "recording_id": "a"},
    "array": {"array": {"shape": [1]}, "temporal_dim": 0},
    "no cut": {"key": "a", "wav": "a.wav"},
    "no recording": {"id": "a", "start": 0, "duration": 1.0, "channel": 0, "type": "MonoCut"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_manifests_are_refused_saying_what_they_are(tmp_path, what):
    path = tmp_path / "x.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write("\n" + 3 * (json.dumps(OTHERS[what]) + "\n"))
    for read in (open_cuts, index_cuts):
        with pytest.raises(DataError, match=f"x.jsonl.gz: .*{what}") as error:
            read(str(path))
        assert "\n" not in str(error.value)
    assert what in survey(str(path), sample=None, seed=0).error


@pytest.mark.parametrize("prepare", [lambda path: path, packed])
@pytest.mark.parametrize(
    "file, content", [("about.json", b'{"cu'), ("about.json", b"[]"), ("lines", b"short")]
)
def test_a_damaged_index_is_made_again(manifest, file, content, prepare):
    path = prepare(manifest)
    whole = list(ManifestCuts(path))
    damaged = manifest.parent / ".index" / path.name / file
    for harm in (lambda: damaged.write_bytes(content), damaged.unlink):
        harm()
        assert list(ManifestCuts(path)) == whole


def test_a_damaged_copy_of_a_packed_manifest_is_made_again(manifest):
    path = packed(manifest)
    whole = list(ManifestCuts(path))
    copy = manifest.parent / ".index" / path.name / "cuts.jsonl"
    copy.write_bytes(copy.read_bytes()[:-100])
    assert list(ManifestCuts(path)) == whole
    shutil.rmtree(copy.parent)
    copy.parent.write_text("a file where the folder was")
    assert list(ManifestCuts(path)) == whole


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
