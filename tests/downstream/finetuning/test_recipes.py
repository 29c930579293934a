"""The shipped recipes of fine-tuning."""

from dataclasses import replace

import pytest
import torch

from distill.config import load, recipe_names
from distill.downstream.finetuning.model import load_finetuned
from distill.downstream.finetuning.run import finetune
from distill.options import FinetuneRecipe
from tests.distill.training.runs import log

NAMES = [name for name in recipe_names() if load(name).kind == "finetune"]


def recipe_of(name: str, *words: str) -> FinetuneRecipe:
    recipe = load(name, words)
    assert isinstance(recipe, FinetuneRecipe)
    return recipe


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_trains(mini_data, tmp_path, name):
    words = [
        "teacher=random:spiral_mini",
        "optim.max_steps=2",
        "validation.every_n_steps=2",
        f"data.train=[{mini_data}/speech_train.jsonl.gz]",
        f"data.dev=[{mini_data}/speech_dev.jsonl.gz]",
        f"data.noises={{dns: [{mini_data}/musan_train.jsonl.gz]}}",
        f"data.dev_noises={{dns: [{mini_data}/musan_dev.jsonl.gz]}}",
        "data.workers=0",
        "data.batch_size=4",
        "vocabulary=40",
        "transcripts=null",
        "classifier.width=8",
        "logging.wandb=off",
        "logging.every_n_steps=1",
        "trainer.accelerator=cpu",
        f"freeze_updates={min(1, recipe_of(name).freeze_updates)}",
    ]
    recipe = replace(recipe_of(name, *words), tests={})
    if recipe.units == "subwords":
        pytest.importorskip("sentencepiece")
    made = load_finetuned(finetune(recipe, tmp_path))
    values = log(tmp_path)
    assert len(values["train/loss"]) == 2 and {"val/wer", "val/loss"} <= values.keys()
    assert all(torch.isfinite(torch.tensor(value)).all() for value in values.values())
    assert made.units.kind == recipe.units


def test_the_paper_and_the_code():
    """What SPIRAL's code has, by size, data and units."""

    def of(name: str):
        recipe = recipe_of(name)
        masking, encoder = recipe.masking, recipe.encoder
        hidden = (masking.time_probability, masking.time_length, masking.channel_probability)
        drops = (encoder.layerdrop, encoder.block1_layerdrop, encoder.activation_dropout)
        run = (recipe.data.batch_size, recipe.optim.max_steps, recipe.freeze_updates)
        return hidden, drops, run, recipe.classifier.convolutions, recipe.classifier.layer_norm

    base, large = (0.1, 0.0, 0.1), (0.1, 0.1, 0.1)
    steps = (112, 80_000, 2_000)
    assert of("finetune_base_100h") == ((0.3, 4, 0.3), base, steps, 2, False)
    assert of("finetune_base_100h_char") == ((0.3, 4, 0.3), base, steps, 3, False)
    assert of("finetune_large_100h") == ((0.5, 4, 0.3), large, (144, 80_000, 2_000), 2, False)
    assert of("finetune_large_960h") == ((0.5, 8, 0.3), large, (160, 320_000, 4_000), 2, False)
    assert of("finetune_large_960h_char") == ((0.5, 12, 0.3), large, (160, 320_000, 4_000), 3, True)
    optim = recipe_of("finetune_large_960h").optim
    assert (optim.lr, optim.warmup, optim.hold, optim.floor, optim.decay) == (
        3e-5,
        0.1,
        0.4,
        0.05,
        "tri-stage",
    )


def test_who_hears_noise_and_who_is_frozen():
    noisy = {name for name in NAMES if recipe_of(name).distort}
    assert noisy == {"finetune_base_100h_mct", "finetune_base_mct_100h_mct"}
    frozen = {name for name in NAMES if recipe_of(name).frozen}
    assert frozen == {"finetune_base_100h_frozen", "finetune_large_100h_frozen"}
    tests = recipe_of("finetune_base_mct_100h").tests
    assert tests["ns-clean"].condition == "ns" and "part=0.9-1" in tests["ns-other"].noises["dns"][0]
