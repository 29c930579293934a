"""Checkpoints on disk: the best one, moved folders, full disks, damaged files."""

import errno
import os
import random
import resource
import shutil
import subprocess
import sys
import zipfile
from copy import copy
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from distill import atomic
from distill.checkpoints import inspect, load_student
from distill.errors import CheckpointError
from distill.run import run
from distill.training.run_folder import RunFolder
from distill.training.saving import CarefulCheckpointIO, NeverSaved, damage, read_checkpoint
from distill.training.trainer import Unsaved
from tests.distill.checkpoints.polyglots import polyglot, script
from tests.distill.training.runs import add_callback, differs, log, set_score, tiny, weights

pytestmark = pytest.mark.slow


def moved(run_folder: Path, how: str) -> Path:
    """The same folder under another name."""
    place = run_folder.parent / "elsewhere" / "run"
    place.parent.mkdir()
    if how == "cp -r":
        shutil.copytree(run_folder, place)
    elif how == "another root":
        place.symlink_to(run_folder)
    else:
        shutil.move(run_folder, place)
    return place


@pytest.mark.parametrize("how", ["mv", "cp -r", "another root"])
@pytest.mark.parametrize("name", ["s4", "mini_teacher"])
def test_a_moved_run_keeps_its_best_model(mini_data, tmp_path, name, how):
    run(tiny(mini_data, name=name), tmp_path / "run")
    place = moved(tmp_path / "run", how)
    best = place / "checkpoints" / "best.ckpt"
    kept = best.read_bytes()
    worse = tiny(mini_data, "optim.lr=10", "optim.warmup=0", "validation.every_n_steps=2", name=name, steps=4)
    made = run(worse, place, resume=True)
    losses = log(place)["val/loss"]
    assert losses[-1] > 1.0  # one that was ruined
    assert best.read_bytes() == kept
    assert inspect(made).provenance["step"] == 2


def test_how_good_the_best_is_says_that_checkpoint_itself(mini_data, tmp_path):
    """And not last.ckpt, which may be of another time."""
    run(tiny(mini_data), tmp_path)
    best = tmp_path / "checkpoints" / "best.ckpt"
    set_score(best, -1.0)
    kept = best.read_bytes()
    run(tiny(mini_data, "optim.lr=1e-3", steps=4), tmp_path, resume=True)
    assert best.read_bytes() == kept
    set_score(best, 100.0)
    run(tiny(mini_data, steps=6), tmp_path, resume=True)
    assert read_checkpoint(best)["global_step"] == 6


def test_checkpoints_hold_no_places(mini_data, tmp_path):
    run(tiny(mini_data), tmp_path / "secret_place")
    for path in (tmp_path / "secret_place" / "checkpoints").iterdir():
        assert b"secret_place" not in path.read_bytes()


class Disk:
    """A disk without room for more checkpoints while `full`."""

    def __init__(self, monkeypatch):
        self.full = False
        original = atomic.flush

        def flush(path: Path) -> None:
            if self.full and "ckpt" in path.name:
                raise OSError(errno.ENOSPC, "No space left on device")
            original(path)

        monkeypatch.setattr(atomic, "flush", flush)


class Fill(pl.Callback):
    """Fills the disk before a step, and makes room before another one."""

    def __init__(self, disk: Disk, full_at: int, free_at: int = 1 << 30):
        self.disk, self.full_at, self.free_at = disk, full_at, free_at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.disk.full = self.full_at <= trainer.global_step < self.free_at


BETTER = ("optim.lr=1e-3", "validation.every_n_steps=2")  # every validation is better than the one before


def test_a_disk_that_fills_ends_in_no_stale_student(mini_data, tmp_path, monkeypatch):
    recipe = tiny(mini_data, *BETTER, steps=6)
    run(recipe, tmp_path / "whole")
    disk = Disk(monkeypatch)
    with monkeypatch.context() as patch:
        add_callback(patch, Fill(disk, 2))
        with pytest.raises(
            Unsaved, match=f"last.ckpt could not be written .No space.*--resume {tmp_path}/run"
        ):
            run(recipe, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.steps_done == 0 and not folder.student.exists()
    assert {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    disk.full = False
    run(recipe, tmp_path / "run", resume=True)
    assert differs(weights(tmp_path / "run"), weights(tmp_path / "whole")) == 0
    assert (
        differs(load_student(tmp_path / "run").state_dict(), load_student(tmp_path / "whole").state_dict())
        == 0
    )


def test_the_best_is_written_when_there_is_room_again(mini_data, tmp_path, monkeypatch, caplog):
    """It was met while the disk was full; nothing after it is better."""
    disk = Disk(monkeypatch)
    add_callback(monkeypatch, Fill(disk, 2, 4))
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(
        "distill.distillation.Distillation.on_validation_epoch_end",
        lambda self: self.log("val/loss", next(losses)),
    )
    run(tiny(mini_data, *BETTER, steps=6), tmp_path)
    assert "best.ckpt could not be written (No space left on device); it will be tried again" in caplog.text
    assert inspect(tmp_path).provenance["step"] == 4 and RunFolder(tmp_path).steps_done == 6


def test_the_last_is_written_at_every_validation(mini_data, tmp_path, monkeypatch):
    """Also where it is not the best: a run that is killed after a week without a new best has lost little."""
    losses = iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(
        "distill.distillation.Distillation.on_validation_epoch_end",
        lambda self: self.log("val/loss", next(losses)),
    )

    class Crash(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 5:
                raise MemoryError

    add_callback(monkeypatch, Crash())
    with pytest.raises(MemoryError):
        run(tiny(mini_data, "validation.every_n_steps=2", steps=6), tmp_path)
    steps = [read_checkpoint(tmp_path / "checkpoints" / f"{n}.ckpt")["global_step"] for n in ("best", "last")]
    assert steps == [2, 4]


def test_last_never_gets_ahead_of_a_best_that_is_not_on_the_disk(tmp_path, monkeypatch):
    disk, checkpoints = Disk(monkeypatch), CarefulCheckpointIO()
    best, last = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    value = torch.zeros(2)
    checkpoints.save_checkpoint({"weights": value}, last)
    disk.full = True
    value += 1
    checkpoints.save_checkpoint({"weights": value}, best)
    value += 1  # as training continues
    checkpoints.save_checkpoint({"weights": value}, last)
    assert str(last) in checkpoints.problem and not best.exists()
    assert read_checkpoint(last)["weights"].tolist() == [0, 0]
    disk.full = False
    checkpoints.save_checkpoint({"weights": value}, last)
    assert not checkpoints.problem
    assert [read_checkpoint(path)["weights"][0] for path in (best, last)] == [1, 2]


def test_a_run_that_can_never_save_ends(mini_data, tmp_path, monkeypatch, caplog):
    """With its third attempt, rather than after days of training that nothing is left of."""
    disk = Disk(monkeypatch)
    disk.full = True
    with pytest.raises(
        NeverSaved, match=r"last.ckpt could not be written \(No space left on device\)"
    ) as end:
        run(tiny(mini_data, "validation.every_n_steps=1", steps=20), tmp_path)
    assert end.value.exit_code == 1 and end.value.joint
    assert caplog.text.count("last.ckpt could not be written") == 3
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("how", ["one packed", "overlapping"])
def test_a_checkpoint_that_unpacks_to_more_than_it_is_takes_no_time(tmp_path, how):
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if how == "one packed" else 0) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
        if how == "overlapping":
            info = copy(archive.infolist()[0])
            archive.filelist += [info] * 100
    assert damage(path) == "its parts are compressed or overlap"
    with pytest.raises(CheckpointError, match="compressed or overlap"):
        read_checkpoint(path)


def test_a_checkpoint_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "last.ckpt")
    assert damage(tmp_path / "last.ckpt") == "it is not a file"
    assert damage(tmp_path / "nowhere") == "it does not exist"


def test_a_flipped_bit_is_noticed_wherever_it_changes_anything(tmp_path):
    path = tmp_path / "x.ckpt"
    contents = {"a": torch.arange(300.0), "b": {"text": "value", "n": [1, 2.5]}, "c": torch.ones(7, 3)}
    torch.save(contents, path)
    whole, draw = path.read_bytes(), random.Random(0)
    assert not damage(path)
    noticed = 0
    for _ in range(400):
        changed = bytearray(whole)
        changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        try:
            found = read_checkpoint(path)
        except CheckpointError as error:
            assert "\n" not in str(error) and "weights_only" not in str(error)
            noticed += 1
            continue
        assert torch.equal(found["a"], contents["a"]) and torch.equal(found["c"], contents["c"])
        assert found["b"] == contents["b"]
    assert noticed > 100
    path.write_bytes(whole[: len(whole) // 2])
    assert damage(path)


def flip(path: Path, needle: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(needle) + 3] ^= 1
    path.write_bytes(data)


def test_a_run_does_not_go_on_from_a_damaged_checkpoint(mini_data, tmp_path, distill):
    run(tiny(mini_data), tmp_path)
    best, last = (tmp_path / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    bias = weights(tmp_path)["student.encoder.layers.0.query.weight"].numpy().tobytes()
    whole = last.read_bytes()
    flip(last, bias)
    code, _, err = distill("train", "--resume", tmp_path, "optim.max_steps=4", "--override")
    line = err.splitlines()[-1]
    assert code == 1 and line.startswith(f"distill: {last} is damaged (") and "checksum" in line
    assert f"cp {best} {last}" in line
    last.write_bytes(whole)
    flip(best, bias)
    code, _, err = distill("train", "--resume", tmp_path, "optim.max_steps=4", "--override")
    assert code == 1 and f"{best} is damaged (" in err.splitlines()[-1]
    assert RunFolder(tmp_path).steps_done == 2


def two_archives(path, mark):
    polyglot(path, mark)


def other_contents(path, _):
    torch.save({"state_dict": {}}, path)


@pytest.mark.parametrize("make", [two_archives, script, other_contents])
def test_a_run_goes_on_from_no_file_of_another_kind(mini_data, tmp_path, distill, make):
    """Code in a TorchScript archive, say: neither run, nor a traceback, nor advice to let it run."""
    run(tiny(mini_data), tmp_path / "run")
    last, mark = tmp_path / "run" / "checkpoints" / "last.ckpt", tmp_path / "mark"
    make(last, mark)
    code, _, err = distill("train", "--resume", tmp_path / "run", "optim.max_steps=4", "--override")
    assert code == 1 and not mark.exists()
    assert err.splitlines()[-1].startswith(f"distill: {last} is ")
    assert "Traceback" not in err and "weights_only" not in err and "trust" not in err


def test_a_best_checkpoint_that_is_gone_is_missed_aloud(mini_data, tmp_path, caplog):
    run(tiny(mini_data), tmp_path)
    (tmp_path / "checkpoints" / "best.ckpt").unlink()
    (tmp_path / "finished.json").unlink()
    run(tiny(mini_data), tmp_path, resume=True)
    assert "best.ckpt, of dev " in caplog.text and "the last step, 2, is released" in caplog.text
    caplog.clear()
    run(tiny(mini_data, steps=4), tmp_path, resume=True)
    assert "is missing: the best from now on is kept" in caplog.text


OTHER_SCORES = {
    "cdm": (["cdm=setup1"], "cdm: setup2 -> setup1"),
    "terms alone": (
        ["objective.regression=0", "objective.correlation.weight=1"],
        "objective.correlation.off_diagonal: None -> 0.005",
    ),
    "snr": (["distortion.snr_db=[0,20]"], "distortion.snr_db: [10.0, 20.0] -> [0.0, 20.0]"),
    "adapt": (["masking.probability=0.5"], "masking.probability: 0.4 -> 0.5"),
    "spiral": (["contrast.temperature=0.5"], "contrast.temperature: 0.3 -> 0.5"),
}


@pytest.mark.parametrize("what", OTHER_SCORES)
def test_a_score_of_something_else_is_none_to_beat(mini_data, tmp_path, caplog, what):
    changes, said = OTHER_SCORES[what]
    name = {"adapt": "mini_teacher", "spiral": "spiral_mini"}.get(what, "s4")
    run(tiny(mini_data, name=name), tmp_path)
    best = tmp_path / "checkpoints" / "best.ckpt"
    set_score(best, -1.0)
    kept = best.read_bytes()
    made = run(tiny(mini_data, *changes, name=name, steps=4), tmp_path, resume=True)
    assert said in caplog.text and "the best so far is kept as best-2.ckpt" in caplog.text
    assert (tmp_path / "checkpoints" / "best-2.ckpt").read_bytes() == kept
    assert inspect(made).provenance["step"] == read_checkpoint(best)["global_step"] == 4


def test_a_score_of_the_same_stays_the_one_to_beat(mini_data, tmp_path, caplog):
    """Training may change, corpora may move."""
    run(tiny(mini_data), tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    set_score(best, -1.0)
    kept = best.read_bytes()
    shutil.copytree(mini_data, tmp_path / "data")
    changes = ["objective.correlation.weight=1", "optim.lr=1e-3", "distortion.where=workers"]
    run(tiny(tmp_path / "data", *changes, steps=4), tmp_path / "run", resume=True, other_speech=True)
    assert best.read_bytes() == kept and "cannot be compared" not in caplog.text


def test_a_best_checkpoint_of_another_lightning_is_kept(mini_data, tmp_path):
    """Whose names of callbacks differ: a resumed run must not take itself for a new one."""
    run(tiny(mini_data), tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        checkpoint = torch.load(path, weights_only=True)
        states = {key: state for key, state in checkpoint["callbacks"].items() if "Model" not in key}
        (key,) = checkpoint["callbacks"].keys() - states.keys()
        state = checkpoint["callbacks"][key] | {"best_model_score": torch.tensor(-1.0)}
        torch.save(checkpoint | {"callbacks": states | {"ModelCheckpoint{'new': 1}": state}}, path)
    best = tmp_path / "checkpoints" / "best.ckpt"
    kept = best.read_bytes()
    run(tiny(mini_data, steps=4), tmp_path, resume=True)
    assert best.read_bytes() == kept


def test_a_full_disk_leaves_the_previous_checkpoint(mini_data, tmp_path):
    """Files may not grow beyond 1 MB in the second part of the run, as if the disk were full."""
    run(tiny(mini_data, steps=2), tmp_path / "run")
    kept = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    words = ["--resume", str(tmp_path / "run"), "optim.max_steps=4", "--override"]
    done = subprocess.run(
        [sys.executable, "-m", "distill", "train", *words],
        preexec_fn=full,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "last.ckpt could not be written" in done.stderr and "the previous one stays" in done.stderr
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == kept
    assert not [p for p in (tmp_path / "run").rglob("*") if p.name.startswith(".")]
    run(tiny(mini_data, steps=4), tmp_path / "run", resume=True)  # after making room
    assert load_student(tmp_path / "run")
