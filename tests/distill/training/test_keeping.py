"""Which steps are kept to be looked at, and with what."""

import errno

import pytest
import torch

from distill import atomic
from distill.run import run
from distill.training.saving import read_checkpoint
from tests.distill.training.runs import differs, tiny, weights
from tests.distill.training.test_replaying import spoil


def test_a_kept_step_has_the_weights_before_it(mini_data, tmp_path, monkeypatch):
    """Though that it is not finite is known one step later."""
    spoil(monkeypatch, (0, 2))
    run(tiny(mini_data, "optim.warmup=0", name="s6", steps=8), tmp_path / "run")
    kept = read_checkpoint(tmp_path / "run" / "nonfinite" / "step-2.ckpt")
    assert kept["replay"]["position"] == [0, 2] and len(kept["replay"]["ids"]) == 4
    monkeypatch.setattr("distill.optim.OptimConfig.schedule", lambda self, update: (8 - update) / 8)
    run(tiny(mini_data, "optim.warmup=0", name="s6", steps=2), tmp_path / "before")
    before = weights(tmp_path / "before")
    assert kept["state_dict"].keys() == before.keys()
    student = [name for name in before if name.startswith("student.")]
    assert differs({n: before[n] for n in student}, {n: kept["state_dict"][n] for n in student}) == 0


def test_two_steps_are_kept_at_most(mini_data, tmp_path, monkeypatch):
    spoil(monkeypatch, (0, 0), (0, 2), (1, 1))
    run(tiny(mini_data, steps=6), tmp_path)
    assert sorted(path.name for path in (tmp_path / "nonfinite").iterdir()) == ["step-0.ckpt", "step-2.ckpt"]
    assert len((tmp_path / "nonfinite.tsv").read_text().splitlines()) == 3


def test_a_full_disk_ends_no_run(mini_data, tmp_path, monkeypatch, caplog):
    flush = atomic.flush

    def full(path):
        if "step-" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    monkeypatch.setattr(atomic, "flush", full)
    spoil(monkeypatch, (0, 1))
    run(tiny(mini_data, steps=4), tmp_path)
    assert "step-1.ckpt could not be written (No space left on device)" in caplog.text


@pytest.mark.parametrize("name", ["mini_teacher"])
def test_runs_that_cannot_be_replayed_keep_none(mini_data, tmp_path, name):
    run(tiny(mini_data, name=name), tmp_path)
    assert not (tmp_path / "nonfinite").exists() and torch.is_tensor(next(iter(weights(tmp_path).values())))
