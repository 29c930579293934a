"""Targets of a corpus: equal however they are made, resumed, and never taken for those of something else."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from distill.adaptation import labelling, target_making
from distill.adaptation.kmeans import fit_kmeans
from distill.adaptation.layer_features import layer_features
from distill.adaptation.mfcc import align_labels, mfcc_features
from distill.adaptation.target_making import wait_for_targets
from distill.adaptation.targets import Targets
from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.errors import DataError, UserError
from distill.hubert import HubertConfig, HubertEncoder
from tests.distill.adaptation.conftest import N_FILES
from tests.distill.adaptation.small_targets import clustering, make, same


@pytest.mark.parametrize("of_layer", [False, True])
def test_labels_are_the_nearest_of_the_centres_fitted_on_all_frames(cuts, encoder, tmp_path, of_layer):
    model = {"encoder": encoder, "layer": 1} if of_layer else {}
    found = make(cuts, tmp_path, **model)
    assert found.features == ("layer 1" if of_layer else "mfcc") and same(Targets.load(tmp_path), found)
    waves = [read_audio(cut) for cut in cuts]
    features = [layer_features(encoder, wave, 1) if of_layer else mfcc_features(wave) for wave in waves]
    frames = torch.cat(features)
    assert torch.equal(found.codebook, fit_kmeans(frames, 4, 3))
    distances = [torch.cdist(one.double(), found.codebook.double()) for one in features]
    for cut, wave, one in zip(cuts, waves, distances, strict=True):
        nearest, labels = one.argmin(1), found.labels[cut.id]
        expected = nearest if of_layer else align_labels(nearest, HubertConfig().frames(len(wave)))
        assert labels.dtype == np.int16 and (labels == expected.numpy()).mean() > 0.97  # but for rounding
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
    squares = torch.cat([one.min(1).values.square() for one in distances])
    assert description["mean_squared_distance"] == pytest.approx(float(squares.mean()), rel=1e-4)


def test_mfcc_targets_follow_the_sound(tmp_path):
    """Two tones that alternate half a second each: what a frame holds is known."""
    rng = np.random.default_rng(0)
    times = np.arange(8000) / 16_000
    tones = np.concatenate([0.3 * np.sin(2 * np.pi * hz * times) for hz in (300, 2500)])
    (tmp_path / "speech").mkdir()
    for name in "abcd":
        soundfile.write(tmp_path / f"speech/{name}.wav", tones + 1e-3 * rng.standard_normal(16_000), 16_000)
    targets = make(open_cuts(str(tmp_path / "speech")), tmp_path / "out", n_clusters=2)
    assert targets.features == "mfcc" and targets.codebook.shape == (2, 39)
    for labels in targets.labels.values():
        assert labels.dtype == np.int16 and len(labels) == 49
        # two tones, two clusters; the deltas' window blurs the change at frame 25
        assert len(set(labels[:22])) == len(set(labels[28:])) == 1
        assert labels[0] != labels[-1]


@pytest.mark.slow
def test_two_processes_make_what_one_does(cuts, encoder, tmp_path):
    one = make(cuts, tmp_path / "one", encoder=encoder, layer=1)
    two = make(cuts, tmp_path / "two", encoder=encoder, layer=1, jobs=2)
    # one thread or several add up in another order
    assert torch.allclose(one.codebook, two.codebook, atol=1e-4)
    assert list(one.labels) == list(two.labels)
    agree = [(one.labels[name] == two.labels[name]).mean() for name in one.labels]
    assert np.mean(agree) > 0.99


def test_an_interrupted_call_is_resumed(cuts, tmp_path, monkeypatch):
    """Blocks of utterances 0-2, 3-5 and 6-7: stopped in the sample, then at the labels."""
    whole = make(cuts, tmp_path / "whole")
    out = tmp_path / "stopped"
    for limit, read_then, files in (
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
        if files is None:
            assert same(make(cuts, out), whole)
        else:
            with pytest.raises(KeyboardInterrupt):
                make(cuts, out)
            assert sorted(path.name for path in out.iterdir()) == files
        assert read == [f"u{index}" for index in read_then]


def test_what_is_finished_is_only_read(cuts, tmp_path, monkeypatch):
    made = make(cuts, tmp_path)
    monkeypatch.setattr(labelling, "read_audio", None)
    monkeypatch.setattr(target_making, "fit_kmeans", None)
    assert same(make(cuts, tmp_path), made)


def test_left_over_temporary_files_are_swept_up(cuts, tmp_path):
    (tmp_path / ".labels-00001.npz.12345").write_bytes(b"half")
    make(cuts, tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_folder_of_other_targets_is_refused_or_made_again(cuts, encoder, tmp_path):
    make(cuts, tmp_path)
    with pytest.raises(DataError, match=r"other settings \(n_clusters; seed\): choose another folder"):
        make(cuts, tmp_path, n_clusters=5, seed=4)
    with pytest.raises(DataError, match=r"\(speech; audio\)"):
        make(cuts.subset(first=5), tmp_path)
    with pytest.raises(DataError, match=r"\(features; weights\)"):
        make(cuts, tmp_path, encoder=encoder, layer=1)
    again = make(cuts, tmp_path, n_clusters=5, start_afresh=True)
    assert again.n_clusters == 5 and same(Targets.load(tmp_path), again)
    (tmp_path / "job.json").unlink()  # as of the first version
    with pytest.raises(DataError, match="made with other settings"):
        make(cuts, tmp_path)


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
    with pytest.raises(DataError, match=r"other settings \(audio\)"):
        make(other, tmp_path / "targets")
    monkeypatch.setattr(target_making.time, "sleep", lambda _: (_ for _ in ()).throw(TimeoutError))
    with pytest.raises(TimeoutError):  # the first process has yet to make them
        wait_for_targets(other, tmp_path / "targets", clustering())
    shutil.copytree(tmp_path / "targets", tmp_path / "old")
    for name in ("job.json", "targets.json"):
        about = json.loads((tmp_path / "old" / name).read_text())
        del about["audio"]
        (tmp_path / "old" / name).write_text(json.dumps(about))
    assert same(wait_for_targets(other, tmp_path / "old", clustering()), made)
    assert same(make(other, tmp_path / "old"), made)
    again = make(other, tmp_path / "targets", start_afresh=True)
    assert not torch.equal(again.codebook, made.codebook)
    assert same(wait_for_targets(other, tmp_path / "targets", clustering()), again)


def test_a_given_codebook_labels_without_a_fit(cuts, tmp_path, monkeypatch):
    train = make(cuts.subset(first=5), tmp_path / "train")
    monkeypatch.setattr(target_making, "fit_kmeans", None)
    dev = make(cuts.subset(last=3), tmp_path / "dev", codebook=train.codebook)
    assert torch.equal(dev.codebook, train.codebook) and list(dev.labels) == ["u5", "u6", "u7"]
    with pytest.raises(DataError, match=r"codebook is \(4, 39\), but 4 clusters of layer 1 need \(4, 32\)"):
        model = HubertEncoder.from_preset("mini", layers=1, dim=32, heads=2, ffn_dim=64, position_groups=4)
        make(cuts, tmp_path / "x", codebook=train.codebook, encoder=model, layer=1)


def test_others_wait_for_the_targets_that_they_want(cuts, tmp_path, monkeypatch):
    """Those of another seed are there when the process comes; the first one then makes the wanted ones."""
    make(cuts, tmp_path, seed=1)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            make(cuts, tmp_path, start_afresh=True)

    monkeypatch.setattr(target_making.time, "sleep", sleep)
    found = wait_for_targets(cuts, tmp_path, clustering())
    assert len(slept) == 2 and same(found, make(cuts, tmp_path / "again"))
    assert same(wait_for_targets(cuts, tmp_path, clustering()), found) and len(slept) == 2


def test_who_waits_in_vain_says_so(cuts, folder, tmp_path, monkeypatch):
    """The first process has ended, or this machine has other audio: nothing hangs."""
    monkeypatch.setattr(target_making.time, "sleep", lambda _: None)

    def ended():
        raise UserError("the first process has ended")

    with pytest.raises(UserError, match="the first process has ended"):
        wait_for_targets(cuts, tmp_path / "nothing", clustering(), ended)
    made = make(cuts, tmp_path / "targets")
    shutil.copytree(folder, tmp_path / "copy")
    wave, rate = soundfile.read(tmp_path / "copy" / "u4.wav")
    soundfile.write(tmp_path / "copy" / "u4.wav", wave[::-1], rate)
    with pytest.raises(DataError, match="targets of other audio than this process finds"):
        wait_for_targets(open_cuts(str(tmp_path / "copy")), tmp_path / "targets", clustering())
    assert same(wait_for_targets(cuts, tmp_path / "targets", clustering(), ended), made)


def test_old_targets_that_the_first_process_deletes_are_no_reason_to_give_up(
    cuts, folder, tmp_path, monkeypatch
):
    """However long it then takes."""
    shutil.copytree(folder, tmp_path / "copy")
    wave, rate = soundfile.read(tmp_path / "copy" / "u4.wav")
    soundfile.write(tmp_path / "copy" / "u4.wav", wave[::-1], rate)
    make(open_cuts(str(tmp_path / "copy")), tmp_path / "targets")
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 5:
            (tmp_path / "targets" / "targets.json").unlink()
        if len(slept) == 2 * target_making._PATIENCE_S:
            make(cuts, tmp_path / "targets", start_afresh=True)

    monkeypatch.setattr(target_making.time, "sleep", sleep)
    wait_for_targets(cuts, tmp_path / "targets", clustering())
    assert len(slept) == 2 * target_making._PATIENCE_S


def test_bad_corpora_and_arguments_are_named(cuts, tmp_path):
    with pytest.raises(DataError, match="too few for 5000 clusters"):
        make(cuts, tmp_path, n_clusters=5000)
    with pytest.raises(ValueError, match="jobs"):
        make(cuts, tmp_path / "wrong", jobs=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="file/out"):
        make(cuts, tmp_path / "file" / "out")


def test_a_damaged_block_is_named(cuts, tmp_path):
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
