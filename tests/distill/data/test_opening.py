"""Manifests of strangers: what they name is opened only if it is a file or an object in a store."""

import copy
import gzip
import io
import json
import re
import tarfile
from contextlib import suppress

import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from lhotse import MonoCut, MultiCut, Recording
from lhotse.audio import AudioSource

from distill.data.audio import read_audio
from distill.data.dataset import SpeechDataset
from distill.data.manifest import ManifestCuts
from distill.data.noise import NoiseReader
from distill.data.sources import index_cuts, open_cuts
from distill.data.transforms import DistortTransform, distort_cuts
from distill.data_prep import CORPORA
from distill.data_prep.manifests import cut_from_file
from distill.data_prep.shards import check_destination, write_shards
from distill.distortions import DistortionConfig
from distill.distortions.plan import draw
from distill.downstream.options import EvaluationConfig
from distill.downstream.task_sources import read_split
from distill.errors import DataError, UserError
from distill.hubert import HubertConfig
from distill.preflight.survey import survey

RATE = 16_000


def wav(path, seconds=0.5, rate=RATE, channels=1, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.fixture
def good(tmp_path):
    """A cut as it stands in a manifest, read without trouble."""
    recording = Recording.from_file(wav(tmp_path / "good.wav"))
    cut = MonoCut(id="u", start=0, duration=0.5, channel=0, recording=recording, custom={"label": "a"})
    return cut.to_dict()


def recording_of(type_, source):
    """With a source of some type."""
    source = {"type": type_, "channels": [0], "source": source}
    return {"id": "r", "sources": [source], "sampling_rate": RATE, "num_samples": 8000, "duration": 0.5}


def with_recording(recording):
    return lambda good: good | {"recording": recording}


def with_room(recording):
    """A recording that is to be read in a room, whose response is a recording too."""

    def change(good):
        room = {"rir": recording, "normalize_output": True, "early_only": False, "rir_channels": [0]}
        transform = {"name": "ReverbWithImpulseResponse", "kwargs": room}
        return good | {"recording": good["recording"] | {"transforms": [transform]}}

    return change


def mixed(*cuts, **more):
    tracks = [{"cut": cut, "type": cut["type"], "offset": 0.0} for cut in cuts]
    return {"id": "u", "tracks": tracks, "type": "MixedCut", **more}


def second_source(recording):
    def change(good):
        sources = [*good["recording"]["sources"], recording["sources"][0] | {"channels": [1]}]
        both = good["recording"] | {"sources": sources, "channel_ids": [0, 1]}
        return good | {"recording": both, "channel": [0, 1], "type": "MultiCut"}

    return change


def of_kinds(run):
    """By name, ways to name the command `run`, each as a change of a good cut; and what the refusal says."""
    kinds = {
        "command": ("command", run, "commands are not run"),
        "pipe as a URL": ("url", f"pipe:{run}", "commands are not run"),
        "pipe as a file": ("file", f"pipe:{run}", "does not exist"),
        "sph": ("file", f"$({run}).sph", "does not exist"),
        "sph with quotes": ("file", f"';{run};'.sph", "does not exist"),
        "pipe as a shard": ("shar", f"pipe:{run}#0+10", "commands are not run"),
        "URL of a server": ("url", "http://127.0.0.1:9/x.wav", "is not read"),
        "URL of hdfs": ("url", "hdfs://h/x.wav", "is not read"),
        "URL of a shard": ("shar", "ssh://h/x.tar#0+10", "is not read"),
        "URL with keys": ("url", "s3://key:secret@host@bucket/x.wav", "keys or a server"),
        "standard input": ("url", "-", "does not exist"),
        "memory": ("memory", "x", "of type memory"),
        "another type": ("exec", run, "of type exec"),
        "a number": ("file", 7, "no path"),
        "NUL": ("file", "a\0b.wav", "cannot be read"),
    }
    changes = {}
    for name, (kind, source, message) in kinds.items():
        changes[name] = (with_recording(recording_of(kind, source)), message)
    bad = recording_of("command", run)
    whole = {"id": "v", "start": 0, "duration": 0.5, "channel": 0, "type": "MonoCut", "supervisions": []}
    changes |= {
        "room": (with_room(bad), "ReverbWithImpulseResponse"),
        "second source": (second_source(bad), "commands are not run"),
        "track": (lambda good: mixed(good, whole | {"recording": bad}), "commands are not run"),
        "room of a track": (lambda good: mixed(good, with_room(bad)(good)), "ReverbWith"),
        "room of a mixture": (
            lambda good: mixed(good, transforms=with_room(bad)(good)["recording"]["transforms"]),
            "ReverbWith",
        ),
        "mixture in a mixture": (
            lambda good: mixed(good, mixed(whole | {"recording": bad})),
            "no cut that|commands are not run",
        ),
        "padded": (
            lambda good: mixed(
                whole | {"recording": bad},
                {"id": "p", "duration": 1.0, "sampling_rate": RATE, "feat_value": 0.0, "num_samples": RATE}
                | {"type": "PaddingCut"},
            ),
            "commands are not run",
        ),
    }
    return changes


def harmless(run):
    """Ways to name a command where we read nothing: the utterance is read as if it were not there."""
    bad = recording_of("command", run)
    array = {"storage_type": "lilcom_url", "storage_path": f"pipe:{run}", "storage_key": "x", "shape": [2]}
    features = {"type": "fbank", "num_frames": 50, "num_features": 80, "frame_shift": 0.01, "start": 0}
    features |= {"duration": 0.5, "sampling_rate": RATE, **array}
    del features["shape"]
    temporal = {"array": array, "temporal_dim": 0, "frame_shift": 0.01, "start": 0}
    image = {"storage_type": "pillow_files", "storage_path": f"pipe:{run}", "storage_key": "x"}
    image |= {"width": 1, "height": 1}
    supervision = {"id": "s", "recording_id": "r", "start": 0, "duration": 0.5, "custom": {"target": bad}}
    return {
        "custom recording": lambda good: good | {"custom": {"target": bad, "label": "a"}},
        "custom array": lambda good: good | {"custom": {"a": array, "t": temporal, "label": "a"}},
        "custom image": lambda good: good | {"custom": {"image": image, "label": "a"}},
        "features": lambda good: good | {"features": features},
        "supervision": lambda good: good | {"supervisions": [supervision]},
    }


NAMES = list(of_kinds("x"))


@pytest.fixture
def canary(tmp_path, monkeypatch):
    """A command, as strangers would write it, and the file that it leaves behind, as converters do here."""
    monkeypatch.chdir(tmp_path)
    for converter in ("sph2pipe", "ffmpeg"):
        program = tmp_path / "bin" / converter
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/canary\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return f"touch {tmp_path}/canary", tmp_path / "canary"


def manifest_of(folder, cut):
    path = folder / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(cut).encode()))
    return str(path)


def every_door(path, tmp_path):
    """Everything that opens a manifest and the audio in it; what `read_audio` says."""
    said = ""
    for cuts in (list(open_cuts(path)), list(ManifestCuts(path)), index_cuts([path, path])):
        for start, count in ((0, None), (160, 1600)):
            try:
                read_audio(cuts[0], start, count)
            except DataError as error:
                said = str(error)
    survey(path, sample=None, seed=0)
    SpeechDataset(index_cuts(path))[0, 0, [0]]
    reader = NoiseReader({"musan": path, "rir": path})
    plan = draw(DistortionConfig(additive=("musan",), rir=True), "u", (0,))
    reader.noise(plan, 800)
    reader.rir(plan)
    for door in (
        lambda: read_split(EvaluationConfig(task="ks", sources={"test": path}), "test", HubertConfig()),
        lambda: list(distort_cuts(open_cuts(path), DistortTransform("clean"))),
        lambda: list(open_cuts(f"{path}?part=0-1")),
    ):
        with suppress(DataError):
            door()
    write_shards(
        tmp_path / "cuts.jsonl.gz", str(tmp_path / "shards"), n_cuts=1, jobs=1, done=(), finished=print
    )
    return said


@pytest.mark.parametrize("name", NAMES)
def test_nothing_but_files_and_stores_is_opened(tmp_path, good, canary, name):
    run, left_behind = canary
    change, message = of_kinds(run)[name]
    said = every_door(manifest_of(tmp_path, change(copy.deepcopy(good))), tmp_path)
    assert not left_behind.exists()
    assert re.search(message, said) and "\n" not in said and len(said) < 400
    found = survey(str(tmp_path / "cuts.jsonl.gz"), sample=None, seed=0)
    assert len(found.bad) == 1, found


@pytest.mark.parametrize("name", harmless("x"))
def test_what_is_not_read_does_no_harm(tmp_path, good, canary, name):
    run, left_behind = canary
    path = manifest_of(tmp_path, harmless(run)[name](copy.deepcopy(good)))
    assert every_door(path, tmp_path) == ""
    assert len(read_audio(index_cuts(path)[0])) == 8_000
    assert not left_behind.exists()


def test_manifests_tables_and_folders_whose_names_are_commands(tmp_path, good, canary):
    run, left_behind = canary
    folder = tmp_path / f"pipe:{run.replace(str(tmp_path) + '/', '')};"
    wav(folder / "a.wav")
    wav(folder / "$(touch canary).wav")
    (folder / "list.tsv").write_text(f"path\na.wav\n$(touch canary).wav\npipe:{run}\n$(touch canary)2.sph\n")
    manifest_of(folder, good)
    for source in (folder.name, f"{folder.name}/list.tsv", f"{folder.name}/cuts.jsonl.gz"):
        for cut in (*open_cuts(source), *index_cuts(source)):
            with suppress(DataError):
                assert len(read_audio(cut)) == 8_000
        survey(source, sample=None, seed=0)
    CORPORA["folder"](folder.relative_to(tmp_path), tmp_path / "out")
    assert not left_behind.exists() and not (folder / "canary").exists()


def test_shards_of_strangers(tmp_path, good, canary):
    run, left_behind = canary
    path = manifest_of(tmp_path, good)
    write_shards(tmp_path / "cuts.jsonl.gz", "shards/x", n_cuts=1, jobs=1, done=(), finished=print)
    tar = tmp_path / "shards/x/recording.000000.tar"
    content = tar.read_bytes()
    for harm in (
        lambda about: about["sources"][0].update(type="command", source=run),
        lambda about: about["sources"].append({"type": "command", "channels": [1], "source": run}),
        lambda about: about.update(with_room(recording_of("command", run))(good)["recording"]),
    ):
        with tarfile.open(fileobj=io.BytesIO(content)) as old, tarfile.open(tar, "w") as new:
            for member in old:
                data = old.extractfile(member).read()  # pyright: ignore[reportOptionalMemberAccess]
                if member.name.endswith(".json"):
                    about = json.loads(data)
                    harm(about)
                    data = json.dumps(about).encode()
                    member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        try:
            CORPORA["shar"](tmp_path / "shards", tmp_path / "out")
            every_door(str(tmp_path / "out/x.jsonl.gz"), tmp_path)
        except DataError as error:
            assert "\n" not in str(error)
        assert not left_behind.exists()
    for place in ("http://host/x", "pipe:cat", "ssh://host/x"):
        with pytest.raises(UserError, match=r"is not read|not run"):
            check_destination(place)
    assert path


def test_data_check_runs_nothing(tmp_path, good, canary, distill):
    run, left_behind = canary
    speech = manifest_of(tmp_path, with_recording(recording_of("command", run))(good))
    sources = [f"data.{key}=[{speech}]" for key in ("train", "dev", "noises.musan", "noises.wham")]
    code, printed, _ = distill("data", "check", "mini", *sources)
    assert code == 1 and "commands are not run" in printed and not left_behind.exists()


def as_lhotse_reads(cut, start=0, count=None):
    """Read as it was when lhotse opened the files."""
    if start or count is not None:
        duration = None if count is None else min(count / RATE, cut.duration - start / RATE)
        cut = cut.truncate(offset=start / RATE, duration=duration, preserve_id=True)
    samples = torch.from_numpy(np.atleast_2d(cut.load_audio()).mean(0, dtype=np.float32))
    samples = torchaudio.functional.resample(samples, int(cut.sampling_rate), RATE)
    return samples if count is None else samples[:count]


FILES = {
    "a.wav": {},
    "b.flac": {"subtype": "PCM_24"},
    "c.wav": {"rate": 44_100, "subtype": "FLOAT"},
    "d.flac": {"rate": 8_000, "channels": 2},
    "e.ogg": {"rate": 22_050},
    "f.mp3": {"rate": 48_000, "channels": 2},
    "g.opus": {"rate": 48_000, "format": "OGG", "subtype": "OPUS"},
    "h.WAV": {"format": "NIST", "subtype": "PCM_16"},
    "i.aiff": {"rate": 12_000, "channels": 3},
}


@pytest.mark.parametrize("name", FILES)
def test_samples_are_those_that_lhotse_reads(tmp_path, name):
    file = wav(tmp_path / name, seconds=1.3, **FILES[name])
    recording = Recording.from_file(file)
    whole = recording.to_cut()
    cuts = [
        whole,
        cut_from_file(file),
        whole.truncate(offset=0.31, duration=0.7),
        recording.resample(16_000).to_cut().truncate(offset=0.2),
        recording.resample(24_000).to_cut(),
        recording.perturb_speed(1.1).to_cut(),
        recording.perturb_speed(0.9).to_cut().truncate(offset=0.1, duration=0.5),
        recording.perturb_volume(0.3).resample(8_000).to_cut(),
        whole.append(whole.truncate(duration=0.3)),
        whole.mix(whole.truncate(offset=0.4, duration=0.3), offset_other_by=0.2, snr=7),
        whole.pad(duration=2.0),
        recording.move_to_memory(format="wav").to_cut(),
    ]
    if name == "d.flac":
        cuts += [MonoCut("one", 0.1, 0.6, channel=1, recording=recording)]
        cuts += [MultiCut("two", 0.1, 0.6, channel=[1, 0], recording=recording)]
        other = AudioSource(type="file", channels=[2], source=str(wav(tmp_path / "z.wav", 1.3, 8_000)))
        three = Recording("three", [*recording.sources, other], 8_000, 10_400, 1.3)
        cuts += [three.to_cut(), MonoCut("three", 0.2, 0.5, channel=2, recording=three)]
    for cut in cuts:
        for start, count in ((0, None), (0, 8_000), (1_600, None), (3_000, 4_000)):
            if cut.duration > start / RATE:
                assert torch.equal(read_audio(cut, start, count), as_lhotse_reads(cut, start, count)), cut


def test_a_sphere_file_is_read_by_libsndfile(tmp_path):
    file = wav(tmp_path / "sa1.sph", format="NIST", subtype="PCM_16")
    (tmp_path / "list.tsv").write_text("path\nsa1.sph\n")
    cut = index_cuts(str(tmp_path / "list.tsv"))[0]
    assert np.array_equal(read_audio(cut).numpy(), soundfile.read(file, dtype="float32")[0])
