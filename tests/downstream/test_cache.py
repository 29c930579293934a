"""The feature cache: the same heads, and only of its own model, speech and audio."""

import json
import os
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from lhotse import AudioSource, MonoCut, Recording
from lhotse.utils import fastcopy

from distill.downstream.evaluate import evaluate
from distill.downstream.extraction import fill_all
from distill.downstream.identity import audio_of
from distill.errors import UserError
from distill.hubert import HubertEncoder
from tests.downstream.small_caches import CPU, fill, make

pytestmark = pytest.mark.slow


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
    assert "longer than 1 s and are cropped to that at random positions" in caplog.text
    evaluate(student, quick("ks", crop_s=0.0, **words), tmp_path / "whole")
    sizes = {
        p: sum(f.stat().st_size for f in (tmp_path / p).rglob("*.features")) for p in ("cropped", "whole")
    }
    assert sizes["whole"] > 1.5 * sizes["cropped"]  # train and dev, and not dev alone
    with pytest.raises(UserError, match=r"was made with other settings \(crop_s\)"):
        evaluate(student, quick("ks", crop_s=0.0, **words | {"conditions": ["2-dist"]}), tmp_path / "cropped")


def test_a_block_that_lost_its_features_is_made_again(tmp_path, speech, encoder, small_blocks):
    cache, selection = make(tmp_path, speech, encoder)
    fill(cache, encoder, selection)
    kept = cache.read("u00").clone()
    (cache.folder / "00000.features").unlink()
    (cache.folder / "00001.features").write_bytes(b"half")
    again, _ = make(tmp_path, speech, encoder)
    assert again.missing == [0, 1]
    fill(again, encoder, selection)
    assert again.missing == [] and torch.equal(again.read("u00"), kept)


@pytest.mark.parametrize("file", ["00000.frames.npy", "00000.audio"])
@pytest.mark.parametrize("how", ["empty", "cut", "flipped"])
def test_a_damaged_block_is_made_again(tmp_path, speech, encoder, small_blocks, file, how):
    cache, selection = make(tmp_path, speech, encoder)
    fill(cache, encoder, selection)
    kept, path = cache.read("u00").clone(), cache.folder / file
    whole = path.read_bytes()
    flipped = bytes([whole[0] ^ 0x80]) + whole[1:]
    path.write_bytes({"empty": b"", "cut": whole[: len(whole) - 3], "flipped": flipped}[how])
    again, _ = make(tmp_path, speech, encoder)
    two_lines = file == "00000.audio" and how != "empty"  # of which the other one tells enough
    assert again.missing == ([] if two_lines else [0])
    fill(again, encoder, selection)
    assert again.missing == [] and torch.equal(again.read("u00"), kept)


def test_a_flipped_bit_of_the_features_is_noticed(tmp_path, speech, encoder, small_blocks):
    cache, selection = make(tmp_path, speech, encoder)
    fill(cache, encoder, selection)
    path = cache.folder / "00000.features"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    again, _ = make(tmp_path, speech, encoder)
    with pytest.raises(UserError, match=f"{path} is damaged .*: remove it, and its block is made again"):
        again.read("u00")
    (cache.folder / "00000.crc.npy").unlink()  # as in caches of earlier versions
    earlier, _ = make(tmp_path, speech, encoder)
    assert earlier.missing == [] and earlier.read("u00") is not None


def test_a_block_that_is_written_again_does_not_count_until_it_is_whole(
    tmp_path, speech, encoder, small_blocks
):
    cache, selection = make(tmp_path, speech, encoder)
    fill(cache, encoder, selection)
    with pytest.raises(ZeroDivisionError):
        cache.write(0, ((number, 1 // 0) for number in range(1)))
    assert make(tmp_path, speech, encoder)[0].missing == [0]


def test_a_damaged_description_of_a_cache_is_named(tmp_path, speech, encoder, small_blocks):
    cache, selection = make(tmp_path, speech, encoder)
    fill(cache, encoder, selection)
    (cache.folder / "about.json").write_text("{")
    with pytest.raises(UserError, match=r"about.json is damaged: remove the cache"):
        make(tmp_path, speech, encoder)


def test_links_in_a_cache_are_not_followed(tmp_path, speech, encoder, small_blocks):
    victim, folder = tmp_path / "victim", tmp_path / "cache"
    victim.write_text("precious")
    folder.mkdir()
    for name in ("00000.features", ".partial.00000.features", "00000.frames.npy", ".partial.00000.audio"):
        (folder / name).symlink_to(victim)
    cache, selection = make(folder, speech, encoder)
    fill(cache, encoder, selection)
    assert victim.read_text() == "precious" and cache.read("u00") is not None
    (folder / "00000.audio").unlink()
    (folder / ".00000.lock").unlink(missing_ok=True)
    (folder / ".00000.lock").symlink_to(victim)
    again, selection = make(folder, speech, encoder)
    with pytest.raises(UserError, match="00000.lock"):
        fill(again, encoder, selection)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"name": "b"}, "checkpoint"),
        ({"features": "layer:1"}, "features"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_a_cache_of_something_else_is_refused(tmp_path, speech, encoder, change, name):
    cache, selection = make(tmp_path, speech, encoder)
    fill(cache, encoder, selection)
    with pytest.raises(UserError, match=rf"was made with other settings \({name}\): remove it, or name"):
        make(tmp_path, speech, encoder, **change)


def test_a_cache_of_other_speech_is_refused(tmp_path, speech, encoder):
    cache, selection = make(tmp_path / "cache", speech, encoder)
    fill(cache, encoder, selection)
    shutil.copytree(speech, tmp_path / "speech")
    (tmp_path / "speech" / "u03.wav").unlink()
    with pytest.raises(UserError, match=r"\(list of utterances; place of the audio\): remove it, or name"):
        make(tmp_path / "cache", tmp_path / "speech", encoder)


def reverse(file: Path) -> None:
    """Another recording of the same length, size and time of change."""
    state = file.stat()
    wave, rate = soundfile.read(file, dtype="int16")
    soundfile.write(file, wave[::-1], rate)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_moved_audio_is_the_same(tmp_path, speech, encoder, small_blocks):
    """An interrupted run continues, too; files that were touched are not extracted again."""
    cache, selection = make(tmp_path / "cache", speech, encoder)
    fill(cache, encoder, selection)
    (cache.folder / "00002.audio").unlink()
    shutil.copytree(speech, tmp_path / "moved", copy_function=shutil.copyfile)
    for place in (tmp_path / "moved", speech):
        again, _ = make(tmp_path / "cache", place, encoder)
        assert again.missing == ([2] if place != speech else [])
        fill(again, encoder, selection)
        assert not again.missing and torch.equal(again.read("u00"), cache.read("u00"))
    reverse(tmp_path / "moved" / "u10.wav")
    with pytest.raises(UserError, match=r"other settings \(place of the audio\): remove it"):
        make(tmp_path / "cache", tmp_path / "moved", encoder)


def test_blocks_of_an_earlier_version_go_by_the_state_of_files(tmp_path, speech, encoder, small_blocks):
    cache, selection = make(tmp_path / "cache", speech, encoder)
    fill(cache, encoder, selection)
    for mark in (tmp_path / "cache").glob("*.audio"):
        mark.write_text(mark.read_text().split()[0] + "\n")
    assert not make(tmp_path / "cache", speech, encoder)[0].missing
    shutil.copytree(speech, tmp_path / "moved")
    with pytest.raises(UserError, match=r"other settings \(place of the audio\): remove it"):
        make(tmp_path / "cache", tmp_path / "moved", encoder)


def test_a_cache_of_the_same_names_and_lengths_elsewhere_is_refused(tmp_path, speech, encoder):
    cache, selection = make(tmp_path / "cache", speech, encoder)
    fill(cache, encoder, selection)
    shutil.copytree(speech, tmp_path / "noisy")
    reverse(tmp_path / "noisy" / "u03.wav")
    with pytest.raises(UserError, match=r"other settings \(place of the audio\): remove it"):
        make(tmp_path / "cache", tmp_path / "noisy", encoder)


def test_a_cache_that_does_not_say_where_its_audio_was_is_refused(tmp_path, speech, encoder):
    cache, selection = make(tmp_path, speech, encoder)
    fill(cache, encoder, selection)
    about = json.loads((tmp_path / "about.json").read_text())
    del about["audio"]
    (tmp_path / "about.json").write_text(json.dumps(about | {"version": 1}))
    with pytest.raises(UserError, match="earlier version, which did not note where the audio is: remove it"):
        make(tmp_path, speech, encoder)


def test_blocks_of_audio_that_changed_are_made_again(tmp_path, speech, encoder, small_blocks, caplog):
    shutil.copytree(speech, tmp_path / "speech")
    cache, selection = make(tmp_path / "cache", tmp_path / "speech", encoder)
    fill(cache, encoder, selection)
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
        UserError, match=r"fluent_commands-train-last-float32 was made with other settings \(checkpoint\)"
    ):
        evaluate("random:mini", quick("ic", **options), tmp_path / "second")
