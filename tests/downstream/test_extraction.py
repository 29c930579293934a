"""Filling caches: features of each utterance alone, resumed, shared by processes, tried again."""

import multiprocessing
import shutil
from collections import namedtuple

import numpy as np
import pytest
import soundfile
import torch

from distill.data.audio import read_audio
from distill.downstream import cache as cache_module
from distill.downstream import extraction
from distill.downstream.cache import FeatureCache
from distill.downstream.extraction import fill_all
from distill.errors import DataError, UserError
from distill.hubert import HubertEncoder
from distill.spiral.encoder import SpiralEncoder
from tests.downstream.small_caches import CPU, fill, make


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
    assert on_disk == cache.max_frames.sum() * 128 * {"weighted_sum": 3 * 2}.get(features, 4)


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
        fill(cache, encoder, selection)
    assert cache.missing == [2, 3]
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("0000[01].*")}
    again, _ = make(tmp_path, speech, encoder)
    fill(again, encoder, selection)
    assert len(calls) == 3 + 2 and not again.missing
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    whole, _ = make(tmp_path / "whole", speech, encoder)
    fill(whole, encoder, selection)
    for cut in cache.cuts:
        torch.testing.assert_close(again.read(cut.id), whole.read(cut.id))


def test_the_size_is_said_and_too_small_a_disk_refused(tmp_path, speech, encoder, monkeypatch, capsys):
    cache, selection = make(tmp_path / "new", speech, encoder)
    usage = namedtuple("usage", "total used free")(1, 1, 1 << 30)
    monkeypatch.setattr(extraction.shutil, "disk_usage", lambda _: usage)
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


def fill_in_blocks_of_one(folder, speech, weights, started):
    torch.set_num_threads(1)
    cache_module._BLOCK = 1
    encoder = HubertEncoder.from_preset("mini", layers=2).eval()
    encoder.load_state_dict(weights)
    write = FeatureCache.write

    def noted(self, *arguments):
        with started.get_lock():
            started.value += 1
        write(self, *arguments)

    FeatureCache.write = noted  # pyright: ignore[reportAttributeAccessIssue]
    cache, selection = make(folder, speech, encoder)
    fill(cache, encoder, selection)


def test_processes_share_the_work(tmp_path, speech, encoder):
    """Two at once: each block is extracted once, and both end when all are there."""
    context = multiprocessing.get_context("fork")
    started = context.Value("i", 0)
    arguments = (tmp_path, speech, encoder.state_dict(), started)
    processes = [context.Process(target=fill_in_blocks_of_one, args=arguments) for _ in range(2)]
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
    fill(cache, encoder, selection)
    assert "u04: samples are not finite" in caplog.text
    assert [cut.id for cut in cache.cuts if cache.read(cut.id) is None] == ["u04"]
    soundfile.write(tmp_path / "speech" / "u04.wav", np.full(4000, 0.1), 16_000, subtype="FLOAT")  # repaired
    again, _ = make(tmp_path / "cache", tmp_path / "speech", encoder)
    fill(again, encoder, selection)
    assert all(again.read(cut.id) is not None for cut in again.cuts)


def test_what_could_not_be_read_is_tried_once_by_every_run(
    tmp_path, speech, encoder, small_blocks, monkeypatch
):
    read, broken = extraction.read_audio, ["u04"]

    def flaky(cut, *args):
        if cut.id in broken:
            tries.append(cut.id)
            raise DataError(f"{cut.id}: the disk does not answer")
        return read(cut, *args)

    monkeypatch.setattr(extraction, "read_audio", flaky)
    for missing in ([0, 1, 2, 3], [1]):
        tries: list[str] = []
        cache, selection = make(tmp_path, speech, encoder)
        other, _ = make(tmp_path, speech, encoder)  # of another process, say
        assert cache.missing == missing
        fill(cache, encoder, selection)
        assert tries == ["u04"] and cache.read("u04") is None and not cache.missing
        assert not other.missing  # whoever began at the same time need not try again
    broken.clear()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("0000[023].*")}
    again, selection = make(tmp_path, speech, encoder)
    assert again.missing == [1]
    fill(again, encoder, selection)
    assert again.read("u04") is not None
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert make(tmp_path, speech, encoder)[0].missing == []


@pytest.mark.parametrize("features", ["last", "weighted_sum"])
def test_features_of_a_spiral(tmp_path, speech, small_blocks, features):
    torch.manual_seed(0)
    encoder = SpiralEncoder.from_preset("mini").eval()
    cache, selection = make(tmp_path, speech, encoder, features)
    fill_all([cache], encoder, selection, devices=[CPU], workers=2)
    for cut in cache.cuts:
        wave = read_audio(cut)
        with torch.no_grad():
            states = encoder(wave[None]).features
        found = cache.read(cut.id)
        assert found is not None and len(found) == -(-len(wave) // 1280)
        expected = states[-1][0] if features == "last" else torch.stack(states, 2)[0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
