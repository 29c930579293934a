"""What a run folder holds, and what may be started in one."""

import errno
import json
from importlib.metadata import version

import pytest
import torch

from distill import atomic
from distill.config import load, read_resolved
from distill.errors import ConfigError, UserError
from distill.run import run
from distill.training.locking import NAME, RunLock
from distill.training.run_folder import RunFolder
from tests.distill.recipe_helpers import load_distil
from tests.distill.training.runs import log, overrides, tiny


def test_what_a_run_folder_holds(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    assert names >= {
        "recipe.yaml",
        "versions.json",
        "finished.json",
        "csv/metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
        "student.safetensors",
        "student.json",
    }
    assert any(name.startswith("tensorboard/events") for name in names)
    versions = json.loads((finished / "versions.json").read_text())
    assert versions["torch"] == version("torch") and versions["git"]
    assert load(str(finished / "recipe.yaml")).seed == 3
    assert json.loads((finished / "finished.json").read_text())["steps"] == 8


def test_nothing_in_a_run_needs_unpickling_beyond_tensors(finished):
    for file in ("last", "best"):
        checkpoint = torch.load(finished / "checkpoints" / f"{file}.ckpt", weights_only=True)
        assert not any(name.startswith("teacher.") for name in checkpoint["state_dict"])


def test_a_step_is_logged_with_what_made_it(finished):
    values = log(finished)
    assert len(values["train/loss"]) == len(values["dat/loss"]) == len(values["gradient_norm"]) == 8
    expected = [load("s6", ["optim.max_steps=8"]).optim.schedule(update) * 2e-4 for update in range(1, 9)]
    assert values["lr"] == pytest.approx(expected)
    total = torch.tensor(values["train/l1"]) + torch.tensor(values["train/cosine"])
    torch.testing.assert_close(torch.tensor(values["train/loss"]), total)


def test_a_run_is_not_written_over(finished, mini_data):
    before = (finished / "recipe.yaml").read_text()
    with pytest.raises(UserError, match=rf"holds a run already: continue with --resume {finished}"):
        run(tiny(mini_data, name="s1"), finished)
    assert (finished / "recipe.yaml").read_text() == before


def test_a_start_that_failed_does_not_block_the_next(mini_data, tmp_path):
    with pytest.raises(ConfigError, match="trainer"):
        run(tiny(mini_data, "logging.wandb=offline", "trainer.precision=fp8"), tmp_path / "run")
    run(tiny(mini_data, steps=1), tmp_path / "run")
    assert (tmp_path / "run" / "student.safetensors").exists()


def test_a_folder_in_which_a_run_begins_holds_no_other_things(mini_data, tmp_path, monkeypatch):
    """Processes that start a little later look at it at any moment, such as while its recipe is written."""
    folder, written, flush = RunFolder(tmp_path), [], atomic.flush

    def look(path):
        folder.check(resume=False)
        written.append((path.name.split(".", 2)[-1], folder.recipe.exists()))
        flush(path)

    (tmp_path / f"{NAME}.0123").touch()  # of a dead process, which is being taken over
    monkeypatch.setattr(atomic, "flush", look)
    with RunLock(tmp_path):
        folder.start(tiny(mini_data))
    assert ("recipe.yaml", False) in written and ("versions.json", True) in written


def test_what_a_folder_holds_is_for_the_first_process_to_say(tmp_path, monkeypatch):
    """The others may see what it has begun to write; it ends all of them if it refuses."""
    (tmp_path / "song.flac").touch()
    with pytest.raises(UserError, match="holds other things"):
        RunFolder(tmp_path).check(resume=False)
    monkeypatch.setenv("RANK", "1")
    RunFolder(tmp_path).check(resume=False)


def test_nothing_to_resume(mini_data, tmp_path):
    with pytest.raises(UserError, match="has no checkpoints/last.ckpt to resume from: to begin it again"):
        run(tiny(mini_data), tmp_path, resume=True)


def test_the_recipe_is_written_whole_or_left_alone(mini_data, tmp_path, monkeypatch):
    recipe = tiny(mini_data, "cdm=setup2")
    run(recipe, tmp_path)
    path = tmp_path / "recipe.yaml"
    before = path.read_bytes(), path.stat().st_mtime_ns
    (tmp_path / "finished.json").unlink()
    run(recipe, tmp_path, resume=True)
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "flush", full)
        with pytest.raises(OSError, match=r"No space left on device: .*recipe.yaml"):
            run(tiny(mini_data, "cdm=setup2", steps=3), tmp_path, resume=True)
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)


@pytest.mark.parametrize("name", ["s4", "mini_teacher"])
def test_a_recipe_that_was_cut_is_refused(mini_data, tmp_path, distill, name):
    recipe = tiny(mini_data, name=name, steps=17)
    path = tmp_path / "recipe.yaml"
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")

    RunFolder(tmp_path).start(recipe)
    assert read_resolved(path) == recipe
    whole = path.read_text()
    verb = "train" if name == "s4" else "adapt"
    lines = whole.splitlines(keepends=True)
    for text in ("", whole[: len(whole) // 2], "".join(lines[:-2]), "".join(lines[:-1])[:-1]):
        path.write_text(text)
        code, _, err = distill(verb, "--resume", tmp_path)
        assert code == 2 and err.startswith(f"distill: {path} is cut off (") and "--override" in err
        assert err.count("\n") == 1
        assert path.read_text() == text
    path.write_text("".join(lines[:-1]))  # as earlier versions wrote it
    assert read_resolved(path) == recipe


def test_a_run_with_a_cut_recipe_goes_on_with_the_one_that_is_given(mini_data, tmp_path, distill):
    words = overrides(mini_data, "cdm=setup1")
    assert distill("train", "s4", *words, "--out", tmp_path)[0] == 0
    (tmp_path / "recipe.yaml").write_text("kind: distil\n")
    words = overrides(mini_data, "cdm=setup1", steps=3)
    assert distill("train", "s4", *words, "--resume", tmp_path, "--override")[0] == 0
    assert load_distil(str(tmp_path / "recipe.yaml")).cdm == "setup1"
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 3


def test_a_recipe_that_was_changed_is_refused(mini_data, tmp_path, distill):
    """A flipped bit can make another rate of it, say."""
    recipe = tiny(mini_data, "optim.lr=0.001", steps=17)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"")
    RunFolder(tmp_path).start(recipe)
    path = tmp_path / "recipe.yaml"
    path.write_text(path.read_text().replace("lr: 0.001", "lr: 0.003"))
    code, _, err = distill("train", "--resume", tmp_path)
    assert code == 2 and err.startswith(f"distill: {path} is not as the run wrote it") and "--override" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "name", ["skipped.tsv", "nonfinite.tsv", "csv/hparams.yaml", "checkpoints/best.ckpt"]
)
def test_a_run_does_not_write_through_links(mini_data, tmp_path, name):
    victim, out = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    run(tiny(mini_data), out)
    (out / name).unlink(missing_ok=True)
    (out / name).symlink_to(victim)
    with pytest.raises(UserError, match=f"{out / name} is a link"):
        run(tiny(mini_data, steps=3), out, resume=True)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "text", ["", "{", '{"steps": Infinity}', '{"steps": "x"}', "[]", '{"steps": 1' + "0" * 5000 + "}", "{}"]
)
def test_a_damaged_mark_of_the_end_is_named_and_the_run_counts_as_unfinished(tmp_path, caplog, text):
    folder = RunFolder(tmp_path)
    assert folder.steps_done == 0 and not caplog.text
    folder.finished.write_text(text)
    assert folder.steps_done == 0 and f"{folder.finished} is damaged (" in caplog.text
