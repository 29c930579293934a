import json
import multiprocessing
import os
import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet

from distill.adaptation import labelling, workers
from distill.adaptation import target_shards as shards
from distill.adaptation.labelling import _Forward, each
from distill.adaptation.target_shards import (
    Stock,
    _frames_of,
    _frames_to_keep,
    make_shards,
    take_stock,
    wait_for_shards,
)
from distill.adaptation.targets import Targets, layer_features, make_targets
from distill.adaptation.workers import run_shards
from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.errors import CheckpointError, DataError
from distill.hubert import HubertConfig, HubertEncoder
from tests.distill.adaptation.shard_makers import Misbehaving, PlayedJob

N_FILES = 8


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini", layers=2, dim=32, heads=2, ffn_dim=64, position_groups=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight files of tones and noise, 0.4 to 1 s."""
    root = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    for index in range(N_FILES):
        n_samples = int(rng.integers(6_400, 16_000))
        tones = np.sin(2 * np.pi * rng.integers(200, 3000) * np.arange(n_samples) / 16_000)
        soundfile.write(root / f"u{index}.wav", 0.2 * tones + 0.05 * rng.standard_normal(n_samples), 16_000)
    return root


@pytest.fixture(scope="module")
def cuts(folder):
    return open_cuts(str(folder))


def make(cuts, out, **changes):
    return make_shards(
        cuts, out, **{"n_clusters": 4, "seed": 3, "shard_size": 3, "progress": False, **changes}
    )


def same(first, second):
    return (
        torch.equal(first.codebook, second.codebook)
        and list(first.labels) == list(second.labels)
        and all(np.array_equal(first.labels[name], second.labels[name]) for name in first.labels)
    )


@pytest.mark.parametrize("of_layer", [False, True])
def test_shards_hold_what_one_pass_in_memory_makes(cuts, encoder, tmp_path, of_layer):
    model = {"encoder": encoder, "layer": 1} if of_layer else {}
    whole = make_targets(
        [(cut.id, read_audio(cut)) for cut in cuts], n_clusters=4, seed=3, progress=False, **model
    )
    found = make(cuts, tmp_path, **model)
    assert same(found, whole) and found.features == whole.features == ("layer 1" if of_layer else "mfcc")
    assert same(Targets.load(tmp_path), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "codebook.npy",
        "job.json",
        "labels-00000.npz",
        "labels-00001.npz",
        "labels-00002.npz",
        "targets.json",
    ]
    description = json.loads((tmp_path / "targets.json").read_text())
    assert description["utterances"] == N_FILES
    assert description["frames"] == found.n_frames == sum(found.counts())
    if of_layer:
        frames = torch.cat([layer_features(encoder, read_audio(cut), 1) for cut in cuts])
        nearest = torch.cdist(frames.double(), whole.codebook.double()).min(1).values
        assert description["mean_squared_distance"] == pytest.approx(float(nearest.square().mean()), rel=1e-4)


def test_two_processes_make_what_one_does(cuts, encoder, tmp_path):
    one = make(cuts, tmp_path / "one", encoder=encoder, layer=1)
    two = make(cuts, tmp_path / "two", encoder=encoder, layer=1, jobs=2)
    # one thread or several add up in another order
    assert torch.allclose(one.codebook, two.codebook, atol=1e-4)
    assert list(one.labels) == list(two.labels)
    agree = [(one.labels[name] == two.labels[name]).mean() for name in one.labels]
    assert np.mean(agree) > 0.99


def test_an_interrupted_call_goes_on_where_it_was(cuts, tmp_path, monkeypatch):
    """Shards of utterances 0-2, 3-5 and 6-7: stopped in the sample, then at the labels."""
    whole = make(cuts, tmp_path / "whole")
    out = tmp_path / "stopped"
    for limit, read_then, there in (
        (5, "01234", ["job.json", "sample-00000.npy"]),
        (8, "34567" + "012", ["codebook.npy", "job.json", "labels-00000.npz"]),
        (99, "34567", None),
    ):
        read = []

        def reader(cut, read=read, limit=limit):
            if len(read) == limit:
                raise KeyboardInterrupt
            read.append(cut.id)
            return read_audio(cut)

        monkeypatch.setattr(labelling, "read_audio", reader)
        if there is None:
            assert same(make(cuts, out), whole)
        else:
            with pytest.raises(KeyboardInterrupt):
                make(cuts, out)
            assert sorted(path.name for path in out.iterdir()) == there
        assert read == [f"u{index}" for index in read_then]


def test_what_is_finished_is_only_read(cuts, tmp_path, monkeypatch):
    made = make(cuts, tmp_path)
    monkeypatch.setattr(labelling, "read_audio", None)
    monkeypatch.setattr(shards, "fit_kmeans", None)
    assert same(make(cuts, tmp_path), made)


def test_left_over_temporary_files_are_swept_up(cuts, tmp_path):
    (tmp_path / ".labels-00001.npz.12345").write_bytes(b"half")
    make(cuts, tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_other_targets_is_refused_or_made_anew(cuts, encoder, tmp_path):
    make(cuts, tmp_path)
    with pytest.raises(DataError, match=r"made otherwise \(n_clusters, seed differ\)"):
        make(cuts, tmp_path, n_clusters=5, seed=4)
    with pytest.raises(DataError, match=r"\(speech, audio differ\)"):
        make(cuts.subset(first=5), tmp_path)
    with pytest.raises(DataError, match=r"\(features, weights differ\)"):
        make(cuts, tmp_path, encoder=encoder, layer=1)
    again = make(cuts, tmp_path, n_clusters=5, start_afresh=True)
    assert again.n_clusters == 5 and same(Targets.load(tmp_path), again)
    make_targets([("a", torch.randn(8000))], n_clusters=2, seed=0, progress=False).save(tmp_path / "old")
    with pytest.raises(DataError, match="made otherwise"):
        make(cuts, tmp_path / "old")


def test_labels_are_kept_for_the_same_audio_wherever_it_lies(cuts, folder, tmp_path, monkeypatch):
    """Not for other samples under the same names; targets of an earlier version do not say which."""
    made = make(cuts, tmp_path / "targets")
    shutil.copytree(folder, tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "read_audio", None)
        assert same(make(open_cuts(str(tmp_path / "copy")), tmp_path / "targets"), made)
    wave, rate = soundfile.read(tmp_path / "copy" / "u4.wav")
    soundfile.write(tmp_path / "copy" / "u4.wav", wave[::-1], rate)
    other = open_cuts(str(tmp_path / "copy"))
    with pytest.raises(DataError, match=r"made otherwise \(audio differ\)"):
        make(other, tmp_path / "targets")
    monkeypatch.setattr(shards.time, "sleep", lambda _: (_ for _ in ()).throw(TimeoutError))
    with pytest.raises(TimeoutError):  # the first process has yet to make them
        wait_for_shards(other, tmp_path / "targets", n_clusters=4, seed=3)
    shutil.copytree(tmp_path / "targets", tmp_path / "old")
    for name in ("job.json", "targets.json"):
        about = json.loads((tmp_path / "old" / name).read_text())
        del about["audio"]
        (tmp_path / "old" / name).write_text(json.dumps(about))
    assert same(wait_for_shards(other, tmp_path / "old", n_clusters=4, seed=3), made)
    assert same(make(other, tmp_path / "old"), made)
    again = make(other, tmp_path / "targets", start_afresh=True)
    assert not torch.equal(again.codebook, made.codebook)
    assert same(wait_for_shards(other, tmp_path / "targets", n_clusters=4, seed=3), again)


def test_a_given_codebook_labels_without_a_fit(cuts, tmp_path, monkeypatch):
    train = make(cuts.subset(first=5), tmp_path / "train")
    monkeypatch.setattr(shards, "fit_kmeans", None)
    dev = make(cuts.subset(last=3), tmp_path / "dev", codebook=train.codebook)
    assert torch.equal(dev.codebook, train.codebook) and list(dev.labels) == ["u5", "u6", "u7"]
    with pytest.raises(DataError, match=r"codebook is \(4, 39\), but 4 clusters of layer 1 need \(4, 32\)"):
        model = HubertEncoder.from_preset("mini", layers=1, dim=32, heads=2, ffn_dim=64, position_groups=4)
        make(cuts, tmp_path / "x", codebook=train.codebook, encoder=model, layer=1)


def test_unusable_utterances_are_left_out_with_a_warning(folder, tmp_path, caplog):
    speech = tmp_path / "speech"
    speech.mkdir()
    for name in ("u0", "u1", "u2"):
        (speech / f"{name}.wav").write_bytes((folder / f"{name}.wav").read_bytes())
    soundfile.write(speech / "short.wav", np.zeros(300), 16_000)
    cuts = open_cuts(str(speech))
    (speech / "u1.wav").write_bytes(b"RIFF")  # broken after the manifest was made
    found = make(cuts, tmp_path / "out")
    assert list(found.labels) == ["u0", "u2"]
    for name in ("short: shorter than one frame", "u1: cannot be read"):
        assert sum(name in record.message for record in caplog.records) == 1
    with pytest.raises(DataError, match="not one utterance could be labelled"):
        bad = CutSet([cut for cut in each(cuts) if cut.id not in found.labels])
        make(bad, tmp_path / "none", codebook=found.codebook)


def test_what_was_left_out_is_listed_judged_and_labelled_once_it_is_mended(folder, tmp_path, caplog):
    speech = tmp_path / "speech"
    shutil.copytree(folder, speech)
    good = (speech / "u4.wav").read_bytes()
    cuts = open_cuts(str(speech))
    (speech / "u4.wav").write_bytes(b"RIFF")
    with pytest.raises(
        DataError, match=r"1 of 8 utterances cannot be used .*max_bad_fraction=0.1 .*skipped.tsv"
    ):
        make(cuts, tmp_path / "out", max_bad_fraction=0.1)
    (line,) = (tmp_path / "out/skipped.tsv").read_text().splitlines()
    assert line.startswith("u4\tcannot be read (")
    assert list(make(cuts, tmp_path / "out", max_bad_fraction=0.2).labels) == [
        f"u{i}" for i in (0, 1, 2, 3, 5, 6, 7)
    ]
    assert "1 of 8 utterances cannot be used and have no labels" in caplog.text
    before = (tmp_path / "out/labels-00000.npz").stat().st_mtime_ns
    (speech / "u4.wav").write_bytes(good)
    codebook = np.load(tmp_path / "out/codebook.npy")
    found = make(cuts, tmp_path / "out")
    assert list(found.labels) == [f"u{i}" for i in range(8)] and not (tmp_path / "out/skipped.tsv").exists()
    assert np.array_equal(found.codebook, codebook)
    assert before == (tmp_path / "out/labels-00000.npz").stat().st_mtime_ns  # nothing was amiss with it


def test_others_wait_for_the_targets_that_they_want(cuts, tmp_path, monkeypatch):
    """Those of another seed are there when the process comes; the first one then makes the wanted ones."""
    make(cuts, tmp_path, seed=1)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            make(cuts, tmp_path, start_afresh=True)

    monkeypatch.setattr(shards.time, "sleep", sleep)
    found = wait_for_shards(cuts, tmp_path, n_clusters=4, seed=3)
    assert len(slept) == 2 and same(found, make(cuts, tmp_path / "again"))
    assert same(wait_for_shards(cuts, tmp_path, n_clusters=4, seed=3), found) and len(slept) == 2


def test_bad_corpora_and_arguments_are_named(cuts, encoder, tmp_path):
    with pytest.raises(DataError, match="both called u0; names must differ"):
        take_stock(CutSet([*cuts, next(iter(cuts))]))
    with pytest.raises(DataError, match="no utterances"):
        take_stock(CutSet([]))
    with pytest.raises(DataError, match="too few for 5000 clusters"):
        make(cuts, tmp_path, n_clusters=5000)
    for wrong, match in (
        ({"encoder": encoder}, "go together"),
        ({"encoder": encoder, "layer": 3}, r"layer must be in 1\.\.2"),
        ({"n_clusters": 0}, "n_clusters"),
        ({"max_fit_frames": 2}, "max_fit_frames"),
        ({"sample_hours": 0}, "sample_hours"),
        ({"jobs": 0}, "jobs"),
    ):
        with pytest.raises(ValueError, match=match):
            make(cuts, tmp_path / "wrong", **wrong)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        make(cuts, tmp_path / "file" / "out")


def test_a_damaged_shard_is_named(cuts, tmp_path):
    make(cuts, tmp_path)
    (tmp_path / "targets.json").unlink()
    (tmp_path / "labels-00001.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"labels-00001.npz is damaged .*delete it and run again"):
        make(cuts, tmp_path)
    (tmp_path / "labels-00001.npz").unlink()
    make(cuts, tmp_path)
    (tmp_path / "labels-00002.npz").unlink()
    with pytest.raises(DataError, match="labels-00002.npz is missing"):
        Targets.load(tmp_path)


# ------------------------------------------------------------------------------------------------ the sample


def stock(n=400, seed=0):
    lengths = np.random.default_rng(seed).integers(300, 160_000, n)
    return Stock([f"id{i}" for i in range(n)], lengths)


def test_all_frames_are_kept_where_they_are_few():
    some = stock()
    frames = _frames_of(some, HubertConfig(), 1)
    assert np.array_equal(frames, np.maximum((some.n_samples - 400) // 320 + 1, 0))
    assert np.array_equal(_frames_to_keep(some, frames, 0, 100.0, 10**6), frames)


def test_exactly_max_frames_are_shared_out_in_proportion_to_lengths():
    some = stock()
    frames = _frames_of(some, HubertConfig(), None)
    assert np.array_equal(frames, np.maximum((some.n_samples - 400) // 160 + 1, 0))
    keep = _frames_to_keep(some, frames, 0, 100.0, 5000)
    assert keep.sum() == 5000
    assert np.abs(keep - frames * 5000 / frames.sum()).max() <= 1
    assert (keep <= frames).all()


def test_sample_hours_choose_utterances_at_random():
    some = stock(4000)
    frames = _frames_of(some, HubertConfig(), 1)
    keep = _frames_to_keep(some, frames, 0, some.hours / 4, 10**9)
    chosen = keep > 0
    assert 0.22 < chosen.mean() < 0.28
    assert np.array_equal(keep[chosen], frames[chosen])
    assert not np.array_equal(chosen, _frames_to_keep(some, frames, 1, some.hours / 4, 10**9) > 0)


def test_the_kmeans_gets_the_sample_and_no_more(cuts, tmp_path, monkeypatch):
    seen = []

    def fit(features, n_clusters, seed):
        seen.append(features.clone())
        return features[:n_clusters]

    monkeypatch.setattr(shards, "fit_kmeans", fit)
    everything = make(cuts, tmp_path / "all") and seen.pop()
    some = make(cuts, tmp_path / "some", max_fit_frames=100) and seen.pop()
    assert some.shape == (100, 39)
    rows = (some[:, None] == everything[None]).all(2).float()  # each is a frame of the corpus, in its order
    places = rows.argmax(1)
    assert rows.any(1).all() and (places.diff() > 0).all()
    # shards of another size, and two utterances a shard, sample the same
    make(cuts, tmp_path / "other", max_fit_frames=100, shard_size=2)
    assert torch.equal(seen.pop(), some)


# ------------------------------------------------------------------------------------------------ processes


def test_processes_share_the_shards_and_one_that_is_killed_is_an_error(tmp_path):
    ticks = []
    make: Any = Misbehaving(PlayedJob(str(tmp_path)), "cpu")
    with run_shards(make, 2) as run:
        run("fine", list(range(8)), ticks.append)
        run("again", list(range(2)), ticks.append)
        assert ticks == [2] * 10
        with pytest.raises(DataError, match="ended .killed for its memory.*finished shards stay"):
            run("killed", list(range(6)), ticks.append)
    processes = {(tmp_path / f"fine-{index}").read_text() for index in range(8)}
    assert len(processes) <= 2 and str(os.getpid()) not in processes
    for pid in map(int, processes):  # ended with the block
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_mistake_in_a_process_comes_back_as_its_message(tmp_path, monkeypatch):
    received = iter([("fine", 0), ("mistake", 3)])
    sent = []
    theirs = SimpleNamespace(recv=lambda: next(received), send=sent.append)
    monkeypatch.setattr(workers.signal, "signal", lambda *_: None)
    workers._serve(Misbehaving, PlayedJob(str(tmp_path)), "cpu", theirs)  # pyright: ignore
    assert sent == [2, None, "shard 3 is bad"]
    pool = workers._Pool(Misbehaving(None, "cpu"), 1, ["cpu"])  # pyright: ignore
    ours, theirs = multiprocessing.Pipe()
    pool.processes, pool.pipes = [None], [ours]
    theirs.send(sent[-1])
    with pytest.raises(DataError, match="^shard 3 is bad$"):
        pool.run("any", [0], print)
    assert theirs.recv() == ("any", 0)


def test_a_lazy_manifest_is_read_once(cuts, tmp_path):
    cuts.to_file(tmp_path / "cuts.jsonl.gz")
    lazy = open_cuts(str(tmp_path / "cuts.jsonl.gz"))
    started = []

    class Counting:
        def __iter__(self):
            started.append(1)
            return iter(lazy)

    forward = _Forward(Counting())  # pyright: ignore[reportArgumentType]
    names = [[cut.id for cut in forward.take(r)] for r in (range(1, 3), range(5, 8), range(0, 2))]
    assert names == [["u1", "u2"], ["u5", "u6", "u7"], ["u0", "u1"]]
    assert len(started) == 2  # once more for going back
    assert same(make(lazy, tmp_path / "lazy"), make(cuts, tmp_path / "eager"))
