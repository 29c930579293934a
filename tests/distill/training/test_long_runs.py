"""Stops and starts of long runs: changed settings, validations broken off, lost data, speech that changed."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import soundfile
import torch
from lhotse import CutSet
from lhotse.audio import AudioSource
from lhotse.utils import fastcopy

from distill.checkpoints import load_student
from distill.data.datamodule import NothingUsable
from distill.data.dataset import SpeechDataset
from distill.errors import ConfigError, DataError
from distill.options import OptimConfig
from distill.run import run
from distill.training.faults import NotFinite, TooManyBad
from distill.training.run_folder import RunFolder
from distill.training.stopping import Interrupted
from tests.distill.training.test_train import (
    STEADY,
    add_callback,
    differs,
    interrupt,
    log,
    overrides,
    tiny,
    weights,
)

# ---------------------------------------------------------------------------------------- changed settings


class Watch(pl.Callback):
    """Notes what optimisers have before every update."""

    def __init__(self) -> None:
        self.seen: list[list[dict[str, Any]]] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        made: list[Any] = [optimizer]
        made += [pl_module.classifier_optimizer] if hasattr(pl_module, "classifier_optimizer") else []
        self.seen.append([{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in made])


@pytest.mark.parametrize("name", ["s6", "mini_teacher"])
def test_a_resumed_run_has_the_settings_of_its_recipe(mini_data, tmp_path, monkeypatch, name):
    """With --override: rate, schedule, betas, eps and decay. The moments are the checkpoint's."""
    run(tiny(mini_data, "optim.lr=1e-3", name=name, steps=4), tmp_path)
    changes = ["optim.lr=1e-5", "optim.weight_decay=0.5", "optim.betas=[0.8,0.9]", "optim.eps=1e-3"]
    recipe = tiny(mini_data, *changes, name=name, steps=8)
    watch = Watch()
    with monkeypatch.context() as patch:
        add_callback(patch, watch)
        run(recipe, tmp_path, resume=True)
    expected = [1e-5 * recipe.optim.schedule(update) for update in range(5, 9)]
    assert log(tmp_path)["lr"] == pytest.approx(expected) and len(watch.seen) == 4
    for step, groups in enumerate(watch.seen):
        assert len(groups) == (2 if name == "s6" else 1)
        for group in groups:
            assert group["lr"] == pytest.approx(expected[step])
            assert (group["weight_decay"], group["betas"], group["eps"]) == (0.5, (0.8, 0.9), 1e-3)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["lr_schedulers"][0]["base_lrs"] == [1e-5]
    assert last["optimizer_states"][0]["param_groups"][0]["initial_lr"] == 1e-5
    steps = {int(state["step"]) for state in last["optimizer_states"][0]["state"].values()}
    assert steps == {8}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("s4", "student.dropout=0.2", "encoder.dropout: 0.1 -> 0.2"),
        ("mini_teacher", "encoder.dropout=0.2", "dropout: 0.0 -> 0.2"),
    ],
)
def test_a_resumed_run_says_where_its_model_is_another(mini_data, tmp_path, caplog, name, change, said):
    run(tiny(mini_data, name=name, steps=2), tmp_path)
    run(tiny(mini_data, name=name, steps=3), tmp_path, resume=True)
    assert "the model differs from before" not in caplog.text
    run(tiny(mini_data, change, name=name, steps=4), tmp_path, resume=True)
    assert f"the model differs from before: {said}\n" in caplog.text


@pytest.fixture
def sound_start(monkeypatch):
    """The first update leaves the weights as they are, whatever the learning rate."""
    monkeypatch.setattr(OptimConfig, "schedule", lambda _, update: float(update > 1))


def test_a_run_that_broke_down_goes_on_from_before(mini_data, tmp_path, sound_start):
    """As the message says; the weights that broke down were not saved."""
    options = ["optim.max_nonfinite=3", "optim.warmup=0.2", "validation.every_n_steps=1"]
    too_high = tiny(mini_data, *options, "optim.lr=1e20", steps=10)
    with pytest.raises(NotFinite) as stopped:
        run(too_high, tmp_path)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 1
    assert stopped.value.joint and "\n" not in str(stopped.value)
    assert f"checkpoints/last.ckpt, of step 1, is from before: continue with --resume {tmp_path}" in str(
        stopped.value
    )
    run(tiny(mini_data, *options, "optim.lr=1e-4", steps=10), tmp_path, resume=True)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())
    assert all(torch.isfinite(torch.tensor(log(tmp_path)["train/loss"])))
    assert load_student(tmp_path)


def test_weights_that_broke_down_are_not_advised(mini_data, tmp_path, monkeypatch, sound_start):
    """A signal had them saved; a validation leaves both checkpoints as they are."""
    options = ["optim.max_nonfinite=4", "optim.warmup=0.2", "validation.every_n_steps=1"]
    recipe = tiny(mini_data, *options, "optim.lr=1e20", steps=10)
    with monkeypatch.context() as patch:
        interrupt(patch, 4, signal.SIGTERM)
        patch.setattr("distill.training.stopping.validation_follows", lambda _: False)
        with pytest.raises(Interrupted):
            run(recipe, tmp_path)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 1
    with pytest.raises(
        NotFinite, match="in 4 consecutive updates, up to step 6"
    ) as stopped:  # the third is the first
        run(recipe, tmp_path, resume=True)
    assert "of step 4, are those that broke down: start again with another --out" in str(stopped.value)


# ----------------------------------------------------------------------------------- stopped in a validation


class StopInValidation(pl.Callback):
    """Sends this process a signal while it validates behind that step."""

    def __init__(self, step: int, signum: int):
        self.step, self.signum = step, signum
        self.batches = 0

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.global_step == self.step:
            self.batches += 1
            os.kill(os.getpid(), self.signum)


def logged(out: Path, metric: str) -> list[tuple[int, float]]:
    """Step and value of all log lines since the run was started or resumed."""
    with (out / "csv" / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[metric])) for row in csv.DictReader(file) if row.get(metric)]


def same_run(a: Path, b: Path, behind: int, validated: bool = False) -> bool:
    """Whether a, stopped behind that step, ended as b, which never was: weights, best weights and logs."""
    assert all(differs(weights(a, file), weights(b, file)) < 1e-7 for file in ("last", "best"))
    losses = logged(b, "train/loss")[behind:]
    assert logged(a, "train/loss") == losses
    first = behind if validated else behind - 1  # Lightning logs with the number of the update before
    return logged(a, "val/loss") == [line for line in logged(b, "val/loss") if line[0] >= first]


@pytest.mark.parametrize("name", ["s6", "mini_teacher"])
@pytest.mark.parametrize("every", [3, 4])
@pytest.mark.parametrize("when", ["in it", "right before"])
def test_a_validation_that_was_broken_off_is_done_again(
    mini_data, tmp_path, monkeypatch, capfd, when, every, name
):
    """At the end of an epoch (3), or in the middle of one. Before, it was finished first, or never done."""
    recipe = tiny(mini_data, *STEADY, f"validation.every_n_steps={every}", name=name, steps=10)
    run(recipe, tmp_path / "whole")
    stop = StopInValidation(every, signal.SIGTERM)
    with monkeypatch.context() as patch:
        if when == "right before":
            interrupt(patch, every, signal.SIGTERM)
        else:
            add_callback(patch, stop)
        with pytest.raises(Interrupted) as stopped:
            run(recipe, tmp_path / "run")
    assert (stopped.value.exit_code, stop.batches) == (143, 1 if when == "in it" else 0)
    assert capfd.readouterr().err.count("distill: SIGTERM: saving after this step, then stopping\n") == 1
    assert weights(tmp_path / "run") and not (tmp_path / "run" / "checkpoints" / "best.ckpt").exists()
    run(recipe, tmp_path / "run", resume=True)
    assert same_run(tmp_path / "run", tmp_path / "whole", behind=every)


def test_the_last_validation_is_finished(mini_data, tmp_path, monkeypatch):
    """There would be nothing to go on with."""
    recipe = tiny(mini_data, "data.batch_size=1", steps=2)
    stop = StopInValidation(2, signal.SIGUSR1)
    add_callback(monkeypatch, stop)
    assert run(recipe, tmp_path).exists() and stop.batches > 1
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 2
    assert len(log(tmp_path)["val/loss"]) == 1


# ------------------------------------------------------------------------------------------------ lost data


def lose(monkeypatch, split: str, place: tuple[int, int]) -> None:
    """Let nothing of that batch be usable, and nothing in its place."""
    read = SpeechDataset.__getitem__

    def broken(self, item):
        if self.fixed_epoch == (split == "dev") and item[:2] == place:
            self = SpeechDataset(self.cuts, max_samples=self.max_samples, targets={}, seed=self.seed)
        return read(self, item)

    monkeypatch.setattr(SpeechDataset, "__getitem__", broken)


@pytest.mark.parametrize(
    ("split", "place", "done"),
    [("train", (0, 0), 0), ("train", (1, 1), 4), ("train", (0, 2), 2), ("dev", (0, 0), 4)],
)
def test_a_batch_of_which_nothing_can_be_used_saves_and_lists(
    mini_data, tmp_path, monkeypatch, split, place, done
):
    """At the start, in the middle and at the end of an epoch, in a validation; it continues when fixed."""
    recipe = tiny(mini_data, *STEADY, name="s6", steps=10)
    run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        lose(patch, split, place)
        with pytest.raises(NothingUsable) as stopped:
            run(recipe, tmp_path / "run")
    listed = tmp_path / "run" / "skipped.tsv"
    assert stopped.value.joint and f"; {listed} lists " in str(stopped.value)
    assert "no cluster labels for it" in str(stopped.value) and "\n" not in str(stopped.value)
    names = [line.split("\t")[0] for line in listed.read_text().splitlines()]
    assert len(names) == len(set(names)) > 0
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == done
    run(recipe, tmp_path / "run", resume=True)
    assert same_run(tmp_path / "run", tmp_path / "whole", behind=done, validated=split == "train")


def test_a_lost_stretch_of_the_corpus_does_not_end_the_run(mini_data, tmp_path):
    """However long it is: its batches are made of utterances from elsewhere."""
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    many = [fastcopy(cut, id=f"{cut.id}-{copy}") for copy in range(100) for cut in cuts]
    for cut in many[:600]:  # more on end than are tried
        cut.recording = fastcopy(cut.recording, sources=[AudioSource("file", [0], f"{tmp_path}/gone.flac")])
    CutSet.from_cuts(many).to_file(tmp_path / "some.jsonl.gz")
    options = ["data.batch_size=1", "data.workers=1", "data.max_bad_fraction=0.5", "data.max_samples=1600"]
    run(tiny(mini_data, *options, f"data.train=[{tmp_path}/some.jsonl.gz]", steps=25), tmp_path / "run")
    assert 0 < len((tmp_path / "run" / "skipped.tsv").read_text().splitlines()) < 25


def test_a_corpus_that_is_lost_as_a_whole(mini_data, tmp_path):
    """The list reaches the run folder from a data worker, and there is a checkpoint."""
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    for cut in cuts:
        cut.recording.sources[0].source = f"{tmp_path}/gone.flac"
    CutSet.from_cuts(cuts).to_file(tmp_path / "gone.jsonl.gz")
    with pytest.raises(NothingUsable, match="gone.flac does not exist"):
        run(tiny(mini_data, "data.workers=1", f"data.train=[{tmp_path}/gone.jsonl.gz]"), tmp_path / "run")
    assert len((tmp_path / "run" / "skipped.tsv").read_text().splitlines()) == len(cuts)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_what_was_read_and_listed_is_kept_over_jobs(mini_data, tmp_path, monkeypatch):
    """Each utterance is listed once, and short jobs are judged together."""
    recipe = tiny(mini_data, "data.batch_size=1", "logging.every_n_steps=4", steps=40)
    read = SpeechDataset._utterance

    def broken(self, cut, epoch):
        if not self.fixed_epoch and cut.id == self.cuts[0].id:
            raise DataError(f"{cut.id}: broken")
        return read(self, cut, epoch)

    monkeypatch.setattr(SpeechDataset, "_utterance", broken)
    monkeypatch.setattr("distill.training.faults._ENOUGH_READS", 13)
    for step in (4, 11):  # of the first epoch: no job reads 13 utterances
        with monkeypatch.context() as patch:
            interrupt(patch, step, signal.SIGTERM)
            with pytest.raises(Interrupted):
                run(recipe, tmp_path, resume=step > 4)
    with pytest.raises(TooManyBad, match=r"^1 of 13 utterances cannot be used, .*continue with --resume"):
        run(recipe, tmp_path, resume=True)
    names = [line.split("\t")[0] for line in (tmp_path / "skipped.tsv").read_text().splitlines()]
    assert len(names) == 1
    # Mended, with the list of before: judged anew.
    monkeypatch.setattr(SpeechDataset, "_utterance", read)
    assert run(recipe, tmp_path, resume=True).exists()


# ---------------------------------------------------------------------------------------- noise and rooms


def in_rooms(data: Path, rooms: Path | str) -> list[str]:
    """What gives every utterance a room."""
    noises = f"{{musan: [{data}/musan_train.jsonl.gz], rir: [{rooms}]}}"
    options = [f"data.{key}={noises}" for key in ("noises", "dev_noises")]
    return [*options, "distortion.additive=[musan]", "distortion.rir=true"]


@pytest.mark.parametrize("workers", [0, 1])
def test_recorded_rooms_are_trained_with(mini_data, tmp_path, workers):
    rooms = mini_data / "rir_test.jsonl.gz"
    run(tiny(mini_data, *in_rooms(mini_data, rooms), f"data.workers={workers}"), tmp_path)
    assert log(tmp_path)["data/noise_left_out"] == [0, 0]


def test_rooms_that_are_not_given_are_said_before_training(mini_data, tmp_path):
    recipe = tiny(mini_data, "distortion.rir=true")
    with pytest.raises(
        ConfigError, match="draws recorded rooms, but data.noises.rir .* set distortion.rir=fal"
    ):
        run(recipe, tmp_path)


def lost(manifest: Path, out: Path) -> Path:
    """A copy of a manifest, of which no audio is there."""
    cuts = list(CutSet.from_file(manifest))
    for cut in cuts:
        cut.recording.sources[0].source = "/gone.flac"
    CutSet.from_cuts(cuts).to_file(out)
    return out


def test_too_much_unreadable_noise_ends_the_run(mini_data, tmp_path):
    """Judged by itself, at the end of an epoch at the latest; each recording is listed once."""
    rooms = lost(mini_data / "rir_test.jsonl.gz", tmp_path / "rooms.jsonl.gz")
    options = [*in_rooms(mini_data, rooms), "cdm=setup1", "data.workers=1"]
    with pytest.raises(TooManyBad) as stopped:
        run(tiny(mini_data, *options, steps=20), tmp_path / "run")
    listed = tmp_path / "run" / "skipped.tsv"
    assert stopped.value.joint and "\n" not in str(stopped.value)
    words = "12 of 24 reads of noise and rooms cannot be used, more than data.max_bad_fraction=0.01 allows"
    assert words in str(stopped.value) and f"; {listed} lists them: " in str(stopped.value)
    names = [line.split("\t")[0] for line in listed.read_text().splitlines()]
    assert 0 < len(names) <= 3 and len(set(names)) == len(names)
    assert all(name.startswith("noise ") for name in names)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def test_noise_that_is_left_out_is_logged(mini_data, tmp_path, caplog):
    """The count continues when a run is resumed; a warning for the first recording only."""
    rooms = lost(mini_data / "rir_test.jsonl.gz", tmp_path / "rooms.jsonl.gz")
    options = [*in_rooms(mini_data, rooms), "cdm=setup1", "data.workers=1", "data.max_bad_fraction=1"]
    options += ["logging.audio_every_n_steps=0"]
    run(tiny(mini_data, *options, steps=4), tmp_path / "run")
    counts = log(tmp_path / "run")["data/noise_left_out"]
    assert counts == [4, 8, 12, 16]
    assert caplog.text.count("a recording of noise cannot be used") == 1
    run(tiny(mini_data, *options, steps=5), tmp_path / "run", resume=True)
    dev = len(CutSet.from_file(mini_data / "speech_dev.jsonl.gz"))
    assert log(tmp_path / "run")["data/noise_left_out"] == [20 + dev]


def silent_noise(out: Path, *, sound_at_s: int | None = None) -> list[str]:
    """What gives every utterance noise without a sound, or whose only sound is far from where it is drawn."""
    out.mkdir(parents=True)
    wave = np.zeros(120 * 16_000)
    if sound_at_s is not None:
        wave[sound_at_s * 16_000 :][:160] = 0.1
    soundfile.write(out / "quiet.wav", wave, 16_000)
    options = [f"data.{key}={{musan: [{out}]}}" for key in ("noises", "dev_noises")]
    return [*options, "distortion.additive=[musan]", "cdm=setup1", "data.workers=1"]


def test_silent_noise_ends_the_run(mini_data, tmp_path):
    """As unreadable noise does: all of the speech would stay clean."""
    with pytest.raises(TooManyBad, match="12 of 12 reads of noise and rooms cannot be .* but silence"):
        run(tiny(mini_data, *silent_noise(tmp_path / "noise"), steps=20), tmp_path / "run")
    listed = (tmp_path / "run" / "skipped.tsv").read_text()
    assert listed == "noise quiet\tholds nothing but silence\n"


def test_noise_that_pauses_is_said_once(mini_data, tmp_path, caplog):
    options = silent_noise(tmp_path / "noise", sound_at_s=119)
    run(tiny(mini_data, *options, steps=4), tmp_path / "run")
    assert caplog.text.count("stretches of noise are silent, where their recordings pause") == 1
    assert not (tmp_path / "run" / "skipped.tsv").exists()


# --------------------------------------------------------------------------------------- speech that changed


def test_a_run_does_not_go_on_in_other_speech(mini_data, tmp_path):
    """A place in an epoch is one in these utterances, in this order; where their audio lies is no matter."""
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    manifest = tmp_path / "train.jsonl"
    options = [f"data.train=[{manifest}]", "data.batch_size=2"]

    def write(*which: Any) -> None:
        CutSet.from_cuts(which).to_file(manifest)

    write(*cuts)
    run(tiny(mini_data, *options), tmp_path / "run")
    longer = tiny(mini_data, *options, steps=3)
    others: list[list[Any]] = [cuts[1:], cuts[::-1], [*cuts[1:], fastcopy(cuts[0], id="new")]]
    for other in others:
        write(*other)
        with pytest.raises(
            DataError, match=rf"data.train has changed .*12 utterances then, {len(other)} now"
        ):
            run(longer, tmp_path / "run", resume=True)
    assert RunFolder(tmp_path / "run").steps_done == 2
    run(longer, tmp_path / "run", resume=True, other_speech=True)  # --override
    write(*[fastcopy(cut, recording=fastcopy(cut.recording, id="elsewhere")) for cut in others[-1]])
    run(tiny(mini_data, *options, steps=4), tmp_path / "run", resume=True)


def test_a_checkpoint_of_old_is_gone_on_with(mini_data, tmp_path):
    """From before there was a digest of the speech, or counts of what was read."""
    run(tiny(mini_data), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["SpeechData"]["speech"]
    callbacks = checkpoint["callbacks"]
    assert any(key.startswith("ModelCheckpoint{") for key in callbacks)
    checkpoint["callbacks"] = {k: v for k, v in callbacks.items() if k not in ("BadData", "SkipNonFinite")}
    assert len(checkpoint["callbacks"]) == len(callbacks) - 2
    torch.save(checkpoint, last)
    assert run(tiny(mini_data, steps=3), tmp_path, resume=True).exists()


def test_override_is_handed_on(mini_data, tmp_path, distill):
    cuts = list(CutSet.from_file(mini_data / "speech_train.jsonl.gz"))
    manifest = tmp_path / "train.jsonl"
    CutSet.from_cuts(cuts).to_file(manifest)
    words = overrides(mini_data, f"data.train=[{manifest}]")
    assert distill("train", "s4", *words, "--out", tmp_path / "run")[0] == 0
    CutSet.from_cuts(cuts[1:]).to_file(manifest)
    (tmp_path / "run" / "finished.json").unlink()
    code, _, err = distill("train", "--resume", tmp_path / "run")
    assert code == 1 and "data.train has changed since" in err.splitlines()[-1] and "--override" in err
    assert distill("train", "--resume", tmp_path / "run", "--override")[0] == 0
