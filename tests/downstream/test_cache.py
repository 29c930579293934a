"""The feature cache: the same heads, whole again after a crash, and only of the model that it is of."""

import json
import multiprocessing
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import AudioSource, MonoCut, Recording
from lhotse.utils import fastcopy

from distill.data.audio import read_audio
from distill.data.sources import open_cuts
from distill.downstream import cache as cache_module
from distill.downstream.cache import FeatureCache, fill_all
from distill.downstream.evaluate import evaluate
from distill.downstream.features import Selection
from distill.downstream.identity import audio_of
from distill.errors import DataError, UserError
from distill.hubert import HubertEncoder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder() -> HubertEncoder:
    torch.manual_seed(0)
    return HubertEncoder.from_preset("mini", layers=2).eval()


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    """Eleven utterances of noise."""
    root = tmp_path_factory.mktemp("speech")
    generator = np.random.default_rng(0)
    for index in range(11):
        n_samples = int(generator.integers(2000, 9000))
        soundfile.write(root / f"u{index:02d}.wav", 0.1 * generator.standard_normal(n_samples), 16_000)
    return root


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(cache_module, "_BLOCK", 3)


def make(folder: Path, speech: Path, encoder: HubertEncoder, features="last", dtype="float32", name="a"):
    selection = Selection(features, encoder.config.layers)
    cuts = list(open_cuts(str(speech)))
    options = {"features": features, "checkpoint_hash": name, "dtype": dtype}
    return FeatureCache(folder, cuts, encoder, selection, **options), selection  # pyright: ignore


@pytest.mark.parametrize(
    ("features", "dtype", "tolerance"),
    [("last", "float32", 1e-5), ("layer:0", "float32", 1e-5), ("weighted_sum", "float16", 2e-3)],
)
def test_features_are_those_of_each_utterance_alone(
    tmp_path, speech, encoder, small_blocks, features, dtype, tolerance
):
    cache, selection = make(tmp_path, speech, encoder, features, dtype)
    fill_all([cache], encoder, selection, devices=[CPU], workers=2)
    assert not cache.missing and len(cache.blocks) == 4
    for cut in cache.cuts:
        with torch.no_grad():
            states = encoder(read_audio(cut)[None]).hidden_states
        states = {"last": states[-1][0], "layer:0": states[0][0]}.get(features, torch.stack(states, 2)[0])
        found = cache.read(cut.id)
        assert found is not None and found.dtype == torch.float32
        torch.testing.assert_close(found, states, atol=tolerance, rtol=tolerance)
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("*.features"))
    assert on_disk == cache.room.sum() * 128 * {"weighted_sum": 3 * 2}.get(features, 4)


@pytest.mark.parametrize(
    ("task", "options"),
    [("ks", {"batch_size": 12}), ("er", {"folds": [3]}), ("asr", {"lr": 1e-3, "steps": 10})],
)
def test_heads_are_the_same_with_and_without(quick, student, tmp_path, task, options):
    """100 steps from the same seed; KS with its random crops of silence."""
    states = {}
    for cache in ("off", "float32"):
        steps = {"steps": 100, "every_n_steps": 100}
        config = quick(task, **(steps | options), conditions=["clean"], cache=cache)
        evaluate(student, config, tmp_path / cache)
        (path,) = (tmp_path / cache).glob("heads/*/checkpoints/last.ckpt")
        states[cache] = torch.load(path, weights_only=True)["state_dict"]
    for name, value in states["off"].items():
        torch.testing.assert_close(value, states["float32"][name], atol=1e-5, rtol=0)
    scores = [
        json.loads(next((tmp_path / cache).glob("results/*.json")).read_text())["value"] for cache in states
    ]
    assert scores[0] == scores[1]


def test_only_random_crops_are_computed_online(quick, student, tmp_path, monkeypatch):
    config = quick("ks", cache="float32", conditions=["clean"])
    evaluate(student, config, tmp_path)
    shutil.rmtree(tmp_path / "heads")
    shutil.rmtree(tmp_path / "results")
    heard, forward = [], HubertEncoder.forward

    def count(self, waveforms, lengths=None, **options):
        if not torch.is_inference_mode_enabled():
            assert lengths is None  # all are equally long
            heard.append(waveforms.shape)
        return forward(self, waveforms, lengths, **options)

    monkeypatch.setattr(HubertEncoder, "forward", count)
    evaluate(student, config, tmp_path)
    assert heard and all(n_samples == 16_000 for _, n_samples in heard)
    assert sum(rows for rows, _ in heard) < 0.3 * 4 * 32  # a twelfth of the draws is silence


def test_nothing_is_cropped_if_one_says_so(quick, student, tmp_path, caplog):
    lists = dict.fromkeys(("train", "dev", "test"), quick("ic").data + "/fluent_commands/train.jsonl.gz")
    words = {"label": "label", "sources": lists, "conditions": ["clean"], "cache": "float32"}
    evaluate(student, quick("ks", **words), tmp_path / "cropped")
    assert "longer than 1 s and are cropped to that at random places" in caplog.text
    evaluate(student, quick("ks", crop_s=0.0, **words), tmp_path / "whole")
    sizes = {
        p: sum(f.stat().st_size for f in (tmp_path / p).rglob("*.features")) for p in ("cropped", "whole")
    }
    assert sizes["whole"] > 1.5 * sizes["cropped"]  # train and dev, and not dev alone
    with pytest.raises(UserError, match="has a head of other crop_s"):
        evaluate(student, quick("ks", crop_s=0.0, **words | {"conditions": ["2-dist"]}), tmp_path / "cropped")


def test_a_block_that_lost_its_features_is_made_again(tmp_path, speech, encoder, small_blocks):
    cache, selection = make(tmp_path, speech, encoder)
    cache.fill(encoder, selection, device=CPU)
    kept = cache.read("u00").clone()
    (cache.folder / "00000.features").unlink()
    (cache.folder / "00001.features").write_bytes(b"half")
    again, _ = make(tmp_path, speech, encoder)
    assert again.missing == [0, 1]
    again.fill(encoder, selection, device=CPU)
    assert again.missing == [] and torch.equal(again.read("u00"), kept)


def test_a_crash_in_the_middle_resumes(tmp_path, speech, encoder, small_blocks, monkeypatch):
    cache, selection = make(tmp_path, speech, encoder)
    forward, calls = HubertEncoder.forward, []

    def crash(self, *args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("the power is gone")
        return forward(self, *args, **options)

    monkeypatch.setattr(HubertEncoder, "forward", crash)
    with pytest.raises(RuntimeError):
        cache.fill(encoder, selection, device=CPU)
    assert cache.missing == [2, 3]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("0000[01].*")}
    again, _ = make(tmp_path, speech, encoder)
    again.fill(encoder, selection, device=CPU)
    assert len(calls) == 3 + 2 and not again.missing
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    whole, _ = make(tmp_path / "whole", speech, encoder)
    whole.fill(encoder, selection, device=CPU)
    for cut in cache.cuts:
        torch.testing.assert_close(again.read(cut.id), whole.read(cut.id))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "b"}, "features of another checkpoint:"),
        ({"features": "layer:1"}, "features of another features:"),
        ({"dtype": "float16"}, "features of another dtype:"),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path, speech, encoder, change, message):
    cache, selection = make(tmp_path, speech, encoder)
    cache.fill(encoder, selection, device=CPU)
    with pytest.raises(UserError, match=message):
        make(tmp_path, speech, encoder, **change)


def test_a_cache_of_other_speech_is_refused(tmp_path, speech, encoder):
    cache, selection = make(tmp_path / "cache", speech, encoder)
    cache.fill(encoder, selection, device=CPU)
    shutil.copytree(speech, tmp_path / "speech")
    (tmp_path / "speech" / "u03.wav").unlink()
    with pytest.raises(
        UserError, match="another list of utterances, place of the audio: remove it, or name another cache"
    ):
        make(tmp_path / "cache", tmp_path / "speech", encoder)


def reverse(file: Path) -> None:
    """Another recording of the same length, size and time of change."""
    state = file.stat()
    wave, rate = soundfile.read(file, dtype="int16")
    soundfile.write(file, wave[::-1], rate)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_moved_audio_is_the_same(tmp_path, speech, encoder, small_blocks):
    """Whoever was interrupted goes on, too; files that were touched are not extracted again."""
    cache, selection = make(tmp_path / "cache", speech, encoder)
    cache.fill(encoder, selection, device=CPU)
    (cache.folder / "00002.audio").unlink()
    shutil.copytree(speech, tmp_path / "moved", copy_function=shutil.copyfile)
    for place in (tmp_path / "moved", speech):
        again, _ = make(tmp_path / "cache", place, encoder)
        assert again.missing == ([2] if place != speech else [])
        again.fill(encoder, selection, device=CPU)
        assert not again.missing and torch.equal(again.read("u00"), cache.read("u00"))
    reverse(tmp_path / "moved" / "u10.wav")
    with pytest.raises(UserError, match="cache holds features of another place of the audio: remove it"):
        make(tmp_path / "cache", tmp_path / "moved", encoder)


def test_blocks_of_an_earlier_version_go_by_the_state_of_files(tmp_path, speech, encoder, small_blocks):
    cache, selection = make(tmp_path / "cache", speech, encoder)
    cache.fill(encoder, selection, device=CPU)
    for mark in (tmp_path / "cache").glob("*.audio"):
        mark.write_text(mark.read_text().split()[0] + "\n")
    assert not make(tmp_path / "cache", speech, encoder)[0].missing
    shutil.copytree(speech, tmp_path / "moved")
    with pytest.raises(UserError, match="cache holds features of another place of the audio: remove it"):
        make(tmp_path / "cache", tmp_path / "moved", encoder)


def test_a_cache_of_the_same_names_and_lengths_elsewhere_is_refused(tmp_path, speech, encoder):
    cache, selection = make(tmp_path / "cache", speech, encoder)
    cache.fill(encoder, selection, device=CPU)
    shutil.copytree(speech, tmp_path / "noisy")
    reverse(tmp_path / "noisy" / "u03.wav")
    with pytest.raises(UserError, match="cache holds features of another place of the audio: remove it"):
        make(tmp_path / "cache", tmp_path / "noisy", encoder)


def test_a_cache_that_does_not_say_where_its_audio_was_is_refused(tmp_path, speech, encoder):
    cache, selection = make(tmp_path, speech, encoder)
    cache.fill(encoder, selection, device=CPU)
    about = json.loads((tmp_path / "about.json").read_text())
    del about["audio"]
    (tmp_path / "about.json").write_text(json.dumps(about | {"version": 1}))
    with pytest.raises(UserError, match="earlier version, which did not note where the audio is: remove it"):
        make(tmp_path, speech, encoder)


def test_blocks_of_audio_that_changed_are_made_again(tmp_path, speech, encoder, small_blocks, caplog):
    shutil.copytree(speech, tmp_path / "speech")
    cache, selection = make(tmp_path / "cache", tmp_path / "speech", encoder)
    cache.fill(encoder, selection, device=CPU)
    before = {cut.id: cache.read(cut.id) for cut in cache.cuts}
    wave, rate = soundfile.read(tmp_path / "speech" / "u04.wav")
    soundfile.write(tmp_path / "speech" / "u04.wav", wave[::-1], rate)
    again, _ = make(tmp_path / "cache", tmp_path / "speech", encoder)
    assert again.missing == [1]
    fill_all([again], encoder, selection, devices=[CPU])
    assert "1 of 4 blocks are made again, as their audio has changed or could not be read" in caplog.text
    assert [name for name, old in before.items() if not torch.equal(old, again.read(name))] == ["u04"]


def test_where_audio_is_and_the_state_of_its_files(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"12345")
    kinds = {"file": "a.tar", "shar": "a.tar#3+2", "url": "https://x.org/a.flac"}
    cuts = []
    for kind, place in kinds.items():
        source = AudioSource(kind, [0], place if kind == "url" else f"{tmp_path}/{place}")
        cuts.append(MonoCut(kind, 1.5, 1.0, 0, recording=Recording(kind, [source], 16_000, 64_000, 4.0)))
    places, states = audio_of([*cuts, cuts[0].append(cuts[1])])
    file, shar, url, both = places
    assert (file, shar, url) == (
        f"{tmp_path}/a.tar 1.5",
        f"{tmp_path}/a.tar#3+2 1.5",
        "https://x.org/a.flac 1.5",
    )
    assert both == f"{file}\t{shar}"
    changed = [fastcopy(cuts[0], channel=1), cuts[0].perturb_speed(1.1), cuts[0].resample(8000)]
    (second, *_), (fast, *_), (same, *_) = (audio_of([cut])[0] for cut in changed)
    assert second == f"{file} [1]" and "Speed" in fast and same == file
    state = f"5 {(tmp_path / 'a.tar').stat().st_mtime_ns}"
    assert states == [state, state, "", f"{state}\t{state}"]


def test_evaluations_refuse_the_cache_of_another_checkpoint(quick, student, tmp_path):
    options = {"cache": "float32", "cache_folder": str(tmp_path / "cache"), "conditions": ["clean"]}
    evaluate(student, quick("ic", **options), tmp_path / "first")
    torch.manual_seed(5)
    with pytest.raises(
        UserError, match="fluent_commands-train-last-float32 holds features of another checkp"
    ):
        evaluate("random:mini", quick("ic", **options), tmp_path / "second")


def test_the_size_is_said_and_too_small_a_disk_refused(tmp_path, speech, encoder, monkeypatch, capsys):
    cache, selection = make(tmp_path / "new", speech, encoder)
    usage = namedtuple("usage", "total used free")(1, 1, 1 << 30)
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        UserError, match=r"the feature cache needs 0\.1 MB and 1\.1 GB to spare.*cache=float16"
    ):
        fill_all([cache], encoder, selection, devices=[CPU])
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    fill_all([cache], encoder, selection, devices=[CPU])
    assert "cache: 0.1 MB of features, " in capsys.readouterr().err
    fill_all([cache], encoder, selection, devices=[CPU])
    assert capsys.readouterr().err == ""  # nothing is left to do


def _fill(folder, speech, weights, started):
    torch.set_num_threads(1)
    cache_module._BLOCK = 1
    encoder = HubertEncoder.from_preset("mini", layers=2).eval()
    encoder.load_state_dict(weights)
    extract = FeatureCache._extract

    def noted(self, block, *rest):
        with started.get_lock():
            started.value += 1
        extract(self, block, *rest)

    FeatureCache._extract = noted
    cache, selection = make(folder, speech, encoder)
    cache.fill(encoder, selection, device=CPU, workers=1)


def test_processes_share_the_work(tmp_path, speech, encoder):
    """Two at once: each block is extracted once, and both end when all are there."""
    context = multiprocessing.get_context("fork")
    started = context.Value("i", 0)
    arguments = (tmp_path, speech, encoder.state_dict(), started)
    processes = [context.Process(target=_fill, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert started.value == 11
    assert len(list(tmp_path.glob("*.features"))) == 11


def test_helpers_work_on_the_other_devices(tmp_path, speech, encoder):
    cache, selection = make(tmp_path, speech, encoder)
    fill_all([cache], encoder, selection, devices=[CPU, CPU], workers=1)
    assert not cache.missing


def test_utterances_that_cannot_be_read_are_left_out(tmp_path, speech, encoder, caplog):
    shutil.copytree(speech, tmp_path / "speech")
    soundfile.write(tmp_path / "speech" / "u04.wav", np.full(4000, np.nan), 16_000, subtype="FLOAT")
    cache, selection = make(tmp_path / "cache", tmp_path / "speech", encoder)
    cache.fill(encoder, selection, device=CPU)
    assert "u04: samples are not finite" in caplog.text
    assert [cut.id for cut in cache.cuts if cache.read(cut.id) is None] == ["u04"]
    soundfile.write(tmp_path / "speech" / "u04.wav", np.full(4000, 0.1), 16_000, subtype="FLOAT")  # mended
    again, _ = make(tmp_path / "cache", tmp_path / "speech", encoder)
    again.fill(encoder, selection, device=CPU)
    assert all(again.read(cut.id) is not None for cut in again.cuts)


def test_what_could_not_be_read_is_tried_once_by_every_run(
    tmp_path, speech, encoder, small_blocks, monkeypatch
):
    read, broken = cache_module.read_audio, ["u04"]

    def flaky(cut, *args):
        if cut.id in broken:
            tries.append(cut.id)
            raise DataError(f"{cut.id}: the disk does not answer")
        return read(cut, *args)

    monkeypatch.setattr(cache_module, "read_audio", flaky)
    for missing in ([0, 1, 2, 3], [1]):
        tries: list[str] = []
        cache, selection = make(tmp_path, speech, encoder)
        other, _ = make(tmp_path, speech, encoder)  # of another process, say
        assert cache.missing == missing
        cache.fill(encoder, selection, device=CPU)
        assert tries == ["u04"] and cache.read("u04") is None and not cache.missing
        assert not other.missing  # whoever began at the same time need not try again
    broken.clear()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("0000[023].*")}
    again, selection = make(tmp_path, speech, encoder)
    assert again.missing == [1]
    again.fill(encoder, selection, device=CPU)
    assert again.read("u04") is not None
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert make(tmp_path, speech, encoder)[0].missing == []
