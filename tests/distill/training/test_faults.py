"""Updates whose gradient is not finite: left out, and not too many of them."""

import signal

import pytest
import torch

from distill.checkpoints import load_student
from distill.distillation import Distillation
from distill.errors import UserError
from distill.optim import OptimConfig
from distill.run import run
from distill.training.faults import NotFinite
from distill.training.stopping import Interrupted
from tests.distill.training.runs import differs, interrupt, log, tiny, weights


def spoil(monkeypatch, *steps: int) -> None:
    """Let the teacher's targets be NaN in these batches of the training."""
    original, calls = Distillation.training_step, []

    def training_step(self, batch, batch_idx):
        calls.append(None)
        if len(calls) in steps:
            batch.waveforms = batch.waveforms * float("nan")
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Distillation, "training_step", training_step)


def test_an_update_that_is_not_finite_is_left_out(mini_data, tmp_path, monkeypatch):
    spoil(monkeypatch, 2, 4, 5)
    run(tiny(mini_data, "validation.every_n_steps=1", name="s6", steps=6), tmp_path)
    lines = (tmp_path / "nonfinite.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["1", "3", "4"]
    assert all(len(line.split("\t")[1].split()) == 4 for line in lines)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())  # the classifier's too
    finite = torch.isfinite(torch.tensor(log(tmp_path)["train/loss"]))
    assert finite.tolist() == [True, False, True, False, False, True]


def test_a_left_out_update_changes_nothing(mini_data, tmp_path, monkeypatch):
    run(tiny(mini_data, name="s6", steps=1), tmp_path / "one")
    spoil(monkeypatch, 2, 3)
    # The learning rate depends on max_steps, except in the first step of the warm-up.
    recipe = tiny(mini_data, "optim.warmup=0", "validation.every_n_steps=1", name="s6", steps=3)
    monkeypatch.setattr("distill.optim.OptimConfig.schedule", lambda *_: 1.0)
    run(recipe, tmp_path / "three")
    run(tiny(mini_data, "optim.warmup=0", name="s6", steps=1), tmp_path / "one_more")
    assert differs(weights(tmp_path / "three"), weights(tmp_path / "one_more")) == 0


def test_too_many_such_updates_end_the_run(mini_data, tmp_path, monkeypatch):
    recipe = tiny(mini_data, "optim.max_nonfinite=4", steps=20)
    with monkeypatch.context() as patch:
        spoil(patch, *range(3, 30))
        with pytest.raises(
            UserError, match="not finite in 4 consecutive updates, up to step 6; the last .* held"
        ) as why:
            run(recipe, tmp_path)
    assert "There is no checkpoint yet: start again with a lower optim.lr" in str(why.value)
    assert not list(tmp_path.glob("checkpoints/*"))  # of weights that may have broken down
    run(tiny(mini_data, steps=2), tmp_path)  # into the same folder
    assert all(torch.isfinite(value).all() for value in weights(tmp_path).values())


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
