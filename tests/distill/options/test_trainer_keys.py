"""Options of Lightning's Trainer: passed on, or refused with what to use instead."""

import inspect
import re

import pytest
import pytorch_lightning as pl

from distill.config import load
from distill.errors import ConfigError
from distill.options.shared import INSTEAD_OF, TRAINER_KEYS
from distill.training.run_folder import RunFolder
from distill.training.trainer import make_trainer
from tests.distill.recipe_helpers import refused


@pytest.mark.parametrize("key", INSTEAD_OF)
def test_trainer_keys_that_are_decided_here(key):
    assert f"trainer.{key} is not passed on: use {INSTEAD_OF[key]}" in refused("s4", f"trainer.{key}=1")


@pytest.mark.parametrize(
    "value",
    ["precision=64", "precision=64-true", "precision=16-true", "precision=bf16-true"]
    + ["precision=transformer-engine", "strategy=ddp_spawn", "strategy=fsdp", "strategy=ddp_notebook"],
)
@pytest.mark.parametrize("name", ["s4", "t1_prime"])
def test_trainer_values_that_cannot_work(name, value):
    assert f"trainer.{value} is not passed on: " in refused(name, f"trainer.{value}")


@pytest.mark.parametrize("value", ["precision=16", "precision=bf16-mixed", "precision=32", "strategy=ddp"])
def test_trainer_values_that_work(value):
    assert load("s4", [f"trainer.{value}"]).trainer


def test_every_option_of_lightning_is_passed_on_or_refused_by_name(tmp_path):
    options = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    assert options >= INSTEAD_OF.keys() | set(TRAINER_KEYS)
    assert not INSTEAD_OF.keys() & set(TRAINER_KEYS)
    for key in options - INSTEAD_OF.keys() - set(TRAINER_KEYS):
        with pytest.raises(ConfigError, match=f"^trainer.{key} is not passed on: choose from accelerator, "):
            make_trainer(load("s4", [f"trainer.{key}=1", "logging.wandb=off"]), RunFolder(tmp_path))


def test_what_to_use_instead_of_a_trainer_key_exists():
    for instead in INSTEAD_OF.values():
        if re.fullmatch(r"[a-z_]+\.[a-z_]+", instead):
            assert "unknown key" not in refused("s4", f"{instead}={{}}"), instead
