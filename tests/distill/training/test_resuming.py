"""A resumed run ends where it would have ended, with the settings of its recipe."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lhotse import CutSet
from lhotse.utils import fastcopy

from distill.checkpoints import load_student
from distill.config import load
from distill.errors import ConfigError, DataError
from distill.run import run
from distill.training.run_folder import RunFolder
from distill.training.stopping import Interrupted
from tests.distill.training.runs import (
    STEADY,
    add_callback,
    differs,
    interrupt,
    log,
    log_lines,
    overrides,
    tiny,
    weights,
    whole_and_in_parts,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def never_stopped(mini_data, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    run(tiny(mini_data, *STEADY, name="s6", steps=10), out)
    return out


@pytest.mark.parametrize("where", ["workers", "device"])
def test_a_resumed_curriculum_ends_where_it_would_have(mini_data, tmp_path, monkeypatch, where):
    """With other speech as noise; stopped in the second epoch, while the SNR falls. To the last bit."""
    options = [
        *(
            "distortion.snr_db=[-5,20]",
            "distortion.curriculum=0.8",
            "distortion.additive=[musan,speech,none]",
        ),
        *(f"distortion.where={where}", f"data.workers={2 if where == 'workers' else 0}"),
    ]
    recipe = tiny(mini_data, *STEADY, *options, name="s6", steps=10)
    whole, parts = whole_and_in_parts(recipe, tmp_path, monkeypatch, 5)
    assert differs(weights(parts), weights(whole)) == 0
    without = tiny(mini_data, *STEADY, *options, "distortion.curriculum=null", name="s6", steps=10)
    run(without, tmp_path / "without")
    assert differs(weights(tmp_path / "without"), weights(whole)) > 0


@pytest.mark.parametrize("step", [2, 3, 4, 7])
def test_a_resumed_run_ends_where_it_would_have(mini_data, tmp_path, monkeypatch, never_stopped, step):
    """In the first epoch, at its end (3), at a validation (4) and after both: the same weights and log."""
    recipe = tiny(mini_data, *STEADY, name="s6", steps=10)
    before = signal.getsignal(signal.SIGINT)  # ignored, if a shell started this in the background
    with monkeypatch.context() as patch:
        interrupt(patch, step, signal.SIGINT)
        with pytest.raises(Interrupted, match=rf"stopped by SIGINT; .* --resume {tmp_path}") as stopped:
            run(recipe, tmp_path)
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGINT) is before
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step
    assert not (tmp_path / "student.safetensors").exists()
    run(load(str(tmp_path / "recipe.yaml")), tmp_path, resume=True)
    assert differs(weights(tmp_path), weights(never_stopped)) < 1e-7
    assert differs(load_student(tmp_path).state_dict(), load_student(never_stopped).state_dict()) < 1e-7
    losses = log(tmp_path)["train/loss"]
    assert losses[-(10 - step) :] == pytest.approx(log(never_stopped)["train/loss"][step:], abs=1e-6)


@pytest.mark.parametrize("every", [3, 4])
def test_a_crashed_run_goes_on_from_its_last_validation(mini_data, tmp_path, monkeypatch, every):
    """Which is at the end of an epoch (3), or in the middle of one."""
    recipe = tiny(mini_data, *STEADY, f"validation.every_n_steps={every}", name="s6", steps=10)
    run(recipe, tmp_path / "whole")

    class Crash(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            if trainer.global_step == 5:
                raise MemoryError

    with monkeypatch.context() as patch:
        add_callback(patch, Crash())
        with pytest.raises(MemoryError):
            run(recipe, tmp_path / "crashed")
    last = torch.load(tmp_path / "crashed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == every
    run(recipe, tmp_path / "crashed", resume=True)
    assert differs(weights(tmp_path / "crashed"), weights(tmp_path / "whole")) < 1e-7


def test_a_run_that_is_stopped_twice(mini_data, tmp_path, monkeypatch, never_stopped):
    recipe = tiny(mini_data, *STEADY, name="s6", steps=10)
    for step in (3, 8):
        with monkeypatch.context() as patch:
            interrupt(patch, step, signal.SIGINT)
            with pytest.raises(Interrupted):
                run(recipe, tmp_path, resume=step == 8)
    run(recipe, tmp_path, resume=True)
    assert differs(weights(tmp_path), weights(never_stopped)) < 1e-7


def test_a_resumed_adaptation_ends_where_it_would_have(mini_data, tmp_path, monkeypatch):
    recipe = tiny(mini_data, "data.batch_size=5", "optim.lr=1e-3", name="mini_teacher", steps=6)
    run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 4, signal.SIGTERM)
        with pytest.raises(Interrupted) as stopped:
            run(recipe, tmp_path / "stopped")
    assert stopped.value.exit_code == 143
    run(recipe, tmp_path / "stopped", resume=True)
    assert differs(weights(tmp_path / "whole"), weights(tmp_path / "stopped")) < 1e-7


def test_a_run_is_not_resumed_for_fewer_steps_than_it_has_made(mini_data, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, 3, signal.SIGTERM)
        with pytest.raises(Interrupted):
            run(tiny(mini_data, name="s6", steps=6), tmp_path)
    before = (tmp_path / "recipe.yaml").read_bytes()
    with pytest.raises(
        ConfigError, match="^the run has made 3 steps: optim.max_steps must be 3 or more, not 2$"
    ):
        run(tiny(mini_data, name="s6", steps=2), tmp_path, resume=True)
    assert (tmp_path / "recipe.yaml").read_bytes() == before
    assert not (tmp_path / "student.safetensors").exists()
    run(tiny(mini_data, name="s6", steps=3), tmp_path, resume=True)
    assert (tmp_path / "student.safetensors").exists()


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


@pytest.mark.parametrize("change", ["data.batch_size=3", "data.batch_seconds=2"])
def test_a_curriculum_that_would_jump_is_refused(mini_data, tmp_path, change):
    """It knows the update of a batch by the number of batches in an epoch."""
    options = "distortion.snr_db=[0,20]", "distortion.curriculum=0.8"
    run(tiny(mini_data, *options), tmp_path)
    with pytest.raises(ConfigError, match="batches now and had 3 before, by which distortion.curriculum"):
        run(tiny(mini_data, *options, change, steps=4), tmp_path, resume=True)
    run(tiny(mini_data, options[0], change, steps=4), tmp_path, resume=True)


def test_a_checkpoint_of_old_is_gone_on_with(mini_data, tmp_path):
    """From before there was a digest of the speech, or counts of what was read."""
    run(tiny(mini_data), tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["SpeechData"]["speech"], checkpoint["SpeechData"]["per_epoch"]
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


def test_a_finished_run_is_lengthened_with_override(mini_data, tmp_path):
    run(tiny(mini_data, steps=2), tmp_path)
    run(tiny(mini_data, steps=5), tmp_path, resume=True)
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 5
    assert len(log(tmp_path)["train/loss"]) == 3


def test_steps_of_the_log_do_not_shift_when_a_run_is_lengthened(mini_data, tmp_path):
    """With everything that is logged: losses of steps, of validations, learning rates."""
    options = ["validation.every_n_steps=2", "optim.warmup=0"]
    run(tiny(mini_data, *options, steps=6), tmp_path / "whole")
    run(tiny(mini_data, *options, steps=2), tmp_path / "run")
    run(tiny(mini_data, *options, steps=6), tmp_path / "run", resume=True)
    for metric in ("train/loss", "lr", "val/loss"):
        expected = [step for step, _ in log_lines(tmp_path / "whole", metric)]
        resumed = [step for step, _ in log_lines(tmp_path / "run", metric)]
        assert resumed == [step for step in expected if step >= 2], metric
