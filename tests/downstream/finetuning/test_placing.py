"""Runs in the paper's terms."""

from dataclasses import asdict

import pytest
import torch
import yaml

from distill.config import load, recipe_names, to_yaml
from distill.config.method import speech_names
from distill.downstream.finetuning.facts import described
from distill.downstream.finetuning.paper import TABLES, RunKey, rows_of
from distill.downstream.finetuning.placing import (
    SIZES,
    ablation,
    finetuning_speech,
    key_of,
    unlabelled_speech,
)
from distill.downstream.finetuning.wer_speech import heard_in_training
from distill.downstream.results import parse_result
from distill.options import FinetuneRecipe, SpiralRecipe
from distill.spiral.encoder import SpiralEncoder
from tests.downstream.finetuning.made_results import LS_960, pretraining, score

BASE = RunKey(size="BASE", unlabelled="LS-960")


def key(settings=None, **changes):
    return key_of(parse_result(score(**changes, settings=settings or {})))


def ablated(**changes):
    found = key({"pretraining": pretraining(**changes)})
    assert isinstance(found, RunKey)
    return dict(found.ablation)


def test_the_papers_runs():
    assert key() == BASE
    large = pretraining(
        train=[f"libri-light/{part}" for part in ("small", "medium", "large")],
        ema={"base": 0.99, "final": 0.999, "steps": None, "noise": True, "masking": None},
        heads={"dim": 512, "projection": "linear", "predictor": "batch"},
    )
    settings = {"encoder parameters": 283_869_056, "pretraining": large, "finetuning speech": LS_960}
    assert key(settings | {"frozen": True}) == RunKey(
        size="LARGE", unlabelled="LL-60k", finetuning="train-960", frozen=True
    )
    mct = key({"pretrain_mct": True, "finetune_mct": True})
    assert mct == RunKey(size="BASE", unlabelled="LS-960", pretrain_mct=True, finetune_mct=True)


def test_language_models_by_order_and_units():
    lm = {"units": "char", "lm order": 4, "lm units": "word"}
    assert getattr(key(lm, lm=True), "lm", None) == "4-gram"
    assert (
        getattr(key(lm | {"lm units": "subword", "lm order": 3}, lm=True), "lm", None) == "3-gram of subwords"
    )


def test_ablations():
    assert ablated(ema={"noise": False, "masking": None}) == {"teacher noise": "no"}
    masking = {"time_probability": 0.25, "channel_probability": 0.2}
    assert ablated(ema={"masking": masking}) == {"teacher masking": "time 0.25, 20; frequency 0.2, 20"}
    assert ablated(heads={"predictor": "none", "projection": "convolution"}) == {
        "predictor": "none",
        "projection": "convolution",
    }
    assert ablated(shift=0) == {"shift": "0"}
    assert ablated(contrast={"temperature": 0.1}) == {"contrast": "100 negatives, temperature 0.1"}
    assert ablated(start="spiral_base_mct") == {"from": "spiral_base_mct"}
    assert ablated(masking={"time_length": 10}) == {"masking": "time 0.5, 10; frequency 0.4, 20"}
    assert ablated(ema={"base": 0.9}) == {"ema": "0.9 to 1"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"family": "hubert"}, "not SPIRAL BASE or LARGE: hubert encoder, 90,617,216 parameters"),
        ({"encoder parameters": 1_000}, "not SPIRAL BASE or LARGE: spiral encoder, 1,000 parameters"),
        ({"finetuning speech": ["x/y"]}, "fine-tuned on x/y"),
        ({"pretraining": None}, "how its encoder was pre-trained is not known"),
        ({"pretraining": pretraining(train=LS_960[:1])}, "pre-trained on librispeech/train-clean-100"),
        ({"pretrain_mct": None}, "whether it heard noise in training is not known"),
    ],
)
def test_what_is_no_row_says_why(settings, reason):
    assert key(settings) == reason


def test_a_part_of_the_speech_is_not_the_speech():
    assert unlabelled_speech(LS_960) == "LS-960"
    assert unlabelled_speech([*LS_960[:2], f"{LS_960[2]}?part=0-0.5"]) is None
    assert unlabelled_speech(["librilight/small"]) is None


def test_sizes_are_those_of_the_presets():
    for preset in ("base", "large"):
        with torch.device("meta"):
            encoder = SpiralEncoder.from_preset(preset)
        n_parameters = sum(parameter.numel() for parameter in encoder.parameters())
        assert SIZES[n_parameters] == preset.upper()


def test_the_recipes_defaults_are_no_ablation():
    recipe = asdict(SpiralRecipe(kind="spiral"))
    assert ablated(**{name: recipe[name] for name in ("ema", "heads", "shift", "masking", "contrast")}) == {}


def in_no_table(ablation):
    return not any(
        (key := table.key(row)) is not None and dict(key.ablation) == ablation
        for table in TABLES
        for row in rows_of(table)
    )


def test_shipped_recipes_of_pretraining_are_the_papers_rows():
    found = {}
    for name in recipe_names():
        if name.startswith(("spiral_base", "spiral_large")):
            recipe = load(name)
            facts = described(yaml.safe_load(to_yaml(recipe)))
            size = "LARGE" if "large" in name else "BASE"
            assert unlabelled_speech(facts["train"]) == {"BASE": "LS-960", "LARGE": "LL-60k"}[size], name
            assert facts["mct"] is name.endswith("_mct")
            found[name] = dict(ablation(facts, size))
    assert {name for name, changed in found.items() if in_no_table(changed)} == {"spiral_base_no_shift"}
    assert [name for name, changed in found.items() if not changed] == [
        "spiral_base",
        "spiral_base_mct",
        "spiral_large",
        "spiral_large_mct",
    ]
    assert len({str(changed) for changed in found.values()}) == len(found) - 3


def test_test_sets_of_shipped_recipes_are_columns_of_the_paper():
    columns = {name for table in TABLES for names in table.columns.values() for name in names}
    for name in recipe_names():
        if name.startswith("finetune_") and "mini" not in name:
            recipe = load(name)
            assert isinstance(recipe, FinetuneRecipe)
            assert recipe.tests.keys() <= columns, name
            speech = speech_names(recipe.data.train)
            assert finetuning_speech(speech) == ("train-960" if "960h" in name else "train-clean-100")
            for test, options in recipe.tests.items():
                assert options.condition == ("ns" if test.startswith("ns-") else None)
                assert not heard_in_training(
                    [source for sources in options.noises.values() for source in sources],
                    recipe.data.noises,
                )
