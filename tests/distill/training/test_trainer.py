"""The Trainer of a recipe: updates, devices, checkpoints that do not fit."""

import json

import pytest

from distill.errors import ConfigError
from distill.run import run
from distill.training import trainer as training
from distill.training.run_folder import RunFolder
from tests.distill.training.logs import recipe
from tests.distill.training.runs import log, tiny


@pytest.mark.parametrize("name", ["s4", "mini_teacher"])
def test_validations_are_counted_in_updates(mini_data, tmp_path, name):
    """With micro-batches too, whether they are ours or Lightning's."""
    options = ["optim.accumulate=2", "validation.every_n_steps=2", "data.batch_size=3"]  # 4 batches an epoch
    run(tiny(mini_data, *options, name=name, steps=4), tmp_path)
    values = log(tmp_path)
    assert len(values["val/loss"]) == 2
    assert json.loads((tmp_path / "finished.json").read_text())["steps"] == 4


def test_another_shape_does_not_fit(mini_data, tmp_path):
    run(tiny(mini_data, steps=2), tmp_path)
    recipe = tiny(mini_data, "student.layers=1", steps=4)
    kept = (tmp_path / "recipe.yaml").read_text()
    with pytest.raises(ConfigError, match="last.ckpt is of a model of another shape than the recipe's: "):
        run(recipe, tmp_path, resume=True)
    assert (tmp_path / "recipe.yaml").read_text() == kept  # it can still be resumed with that
    run(tiny(mini_data, steps=4), tmp_path, resume=True)
    assert "max_steps: 4" in (tmp_path / "recipe.yaml").read_text()


def test_the_start_line_names_device_and_precision(tmp_path):
    trainer = training.make_trainer(recipe("trainer.precision=bf16-mixed"), RunFolder(tmp_path))
    assert training.describe_device(trainer) == "1 x CPU (1 thread), bf16-mixed"
