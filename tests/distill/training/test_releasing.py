"""The released model is that of the best checkpoint of this very run."""

import pytest
import torch

from distill.checkpoints import inspect, load_student
from distill.errors import CheckpointError
from distill.run import run
from distill.training.run_folder import RunFolder
from tests.distill.training.runs import differs, log, set_score, tiny

BETTER = ("optim.lr=1e-3", "validation.every_n_steps=2")  # every validation is better than the one before


def test_the_release_is_the_checkpoint_with_the_lowest_dev_loss(finished):
    losses = log(finished)["val/loss"]
    assert len(losses) == 4
    best = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 2 * (losses.index(min(losses)) + 1)
    expected = {
        name.removeprefix("student."): value
        for name, value in best["state_dict"].items()
        if name.startswith("student.")
    }
    assert differs(load_student(finished).state_dict(), expected) == 0
    assert inspect(finished).provenance["step"] == best["global_step"]
    assert inspect(finished).provenance["recipe"] == "s6"


@pytest.mark.parametrize("steps", [4, 5])
def test_steps_behind_the_last_validation_are_said_to_be_lost(mini_data, tmp_path, caplog, steps):
    run(tiny(mini_data, "validation.every_n_steps=2", steps=steps), tmp_path)
    said = "of 5 is released, the lowest dev loss; the last 1 steps were not validated"
    assert (said in caplog.text) == (steps == 5)


def test_a_new_run_does_not_release_what_another_left(mini_data, tmp_path, monkeypatch):
    """A folder with a best checkpoint and no last one, and no validation that can be relied on."""
    run(tiny(mini_data), tmp_path)
    (tmp_path / "checkpoints" / "last.ckpt").unlink()
    set_score(tmp_path / "checkpoints" / "best.ckpt", -1.0)
    monkeypatch.setattr(
        "distill.distillation.Distillation.on_validation_epoch_end",
        lambda self: self.log("val/loss", float("nan")),
    )
    run(tiny(mini_data, steps=3), tmp_path)
    assert inspect(tmp_path).provenance["step"] == 3


def test_a_release_that_failed_is_made_again(mini_data, tmp_path, monkeypatch):
    """A run that was lengthened has an earlier student: it is not finished before the new one is there."""
    run(tiny(mini_data), tmp_path)

    def full(*_):
        raise CheckpointError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("distill.training.releasing.native.write", full)
        with pytest.raises(CheckpointError):
            run(tiny(mini_data, *BETTER, steps=4), tmp_path, resume=True)
    assert RunFolder(tmp_path).steps_done == 2
    run(tiny(mini_data, *BETTER, steps=4), tmp_path, resume=True)
    assert inspect(tmp_path).provenance["step"] == 4 and RunFolder(tmp_path).steps_done == 4


def test_a_damaged_release_is_not_called_finished(mini_data, tmp_path):
    recipe = tiny(mini_data)
    made = run(recipe, tmp_path)
    whole = made.read_bytes()
    made.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(CheckpointError, match="checksum.*or remove it"):
        run(recipe, tmp_path, resume=True)
    made.unlink()
    assert run(recipe, tmp_path, resume=True).read_bytes() == whole
