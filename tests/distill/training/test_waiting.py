"""Signals while a run waits for data."""

import os
import signal

import pytest
import torch

from distill.data.dataset import SpeechDataset
from distill.run import run
from distill.training.stopping import Interrupted
from tests.distill.training.runs import STEADY, differs, log, overrides, tiny, weights


@pytest.fixture(scope="module")
def whole(mini_data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    run(tiny(mini_data, *STEADY, name="s6", steps=8), out)
    return out


def stop_at_read(monkeypatch, number: int, *, dev: bool = False) -> None:
    """Send SIGTERM while the training, or the dev, batch of this number is being read."""
    read, count = SpeechDataset.__getitem__, []

    def __getitem__(self, item):
        if self.fixed_epoch == dev:
            count.append(item)
            if len(count) == number:
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("this batch never comes")
        return read(self, item)

    monkeypatch.setattr(SpeechDataset, "__getitem__", __getitem__)


@pytest.mark.parametrize("number", [3, 4, 6])
def test_a_run_that_waits_for_data_saves_at_once(mini_data, tmp_path, monkeypatch, capfd, whole, number):
    """Within an epoch, at its end, after a validation; it ends where it would have."""
    recipe = tiny(mini_data, *STEADY, name="s6", steps=8)
    with monkeypatch.context() as patch:
        stop_at_read(patch, number)
        with pytest.raises(Interrupted) as stopped:
            run(recipe, tmp_path)
    assert stopped.value.exit_code == 143
    assert "SIGTERM: saving, then stopping" in capfd.readouterr().err
    steps = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert steps <= number
    run(recipe, tmp_path, resume=True)
    assert differs(weights(tmp_path), weights(whole)) < 1e-7
    assert log(tmp_path)["val/loss"] == pytest.approx(
        log(whole)["val/loss"][-len(log(tmp_path)["val/loss"]) :]
    )


def test_a_run_that_waits_for_its_first_batch_has_nothing_to_save(mini_data, tmp_path, distill, monkeypatch):
    stop_at_read(monkeypatch, 1)
    code, _, err = distill("train", "s4", *overrides(mini_data), "--out", tmp_path)
    assert code == 143 and err.splitlines()[-1] == (
        "distill: stopped by SIGTERM before the first step: nothing to save"
    )
    assert not list(tmp_path.glob("checkpoints/*"))


def test_a_validation_that_waits_for_data(mini_data, tmp_path, monkeypatch, whole):
    recipe = tiny(mini_data, *STEADY, name="s6", steps=8)
    with monkeypatch.context() as patch:
        stop_at_read(patch, 1, dev=True)
        with pytest.raises(Interrupted):
            run(recipe, tmp_path)
    run(recipe, tmp_path, resume=True)
    assert differs(weights(tmp_path), weights(whole)) < 1e-7
    assert log(tmp_path)["val/loss"] == pytest.approx(log(whole)["val/loss"])
