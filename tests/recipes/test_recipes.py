"""The recipes that ship: the paper's rows, and a reason on every line."""

import csv
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from distill.config import load, recipe_names
from distill.distortions import CONDITIONS
from distill.options import CDM, DistillRecipe, SpiralRecipe
from distill.spiral.perturbation import SpecAugment
from tests.distill.recipe_helpers import load_distil

RECIPES = Path(str(resources.files("distill.recipes")))


HUBERT, ADAPTED = "facebook/hubert-base-ls960", "runs/t1_prime"


# recipe: (row and model of the paper's tables, teacher, cdm, DAT, layers); teachers have no student.
ROWS = {
    "t1": ("T1", "HuBERT", HUBERT, None, None, None),
    "t1_prime": ("T1'", "HuBERT", HUBERT, None, None, None),
    "s1": ("S1", "DistilHuBERT (Tr2)", HUBERT, "none", False, 2),
    "s1_prime": ("S1'", "DistilHuBERT (Tr2)", ADAPTED, "none", False, 2),
    "s2": ("S2", "DistilHuBERT (Tr2) setup1", HUBERT, "setup1", False, 2),
    "s2_prime": ("S2'", "DistilHuBERT (Tr2) setup1", ADAPTED, "setup1", False, 2),
    "s3": ("S3", "DistilHuBERT (Tr2) setup2 (same)", HUBERT, "setup2_same", False, 2),
    "s3_prime": ("S3'", "DistilHuBERT (Tr2) setup2 (same)", ADAPTED, "setup2_same", False, 2),
    "s4": ("S4", "DistilHuBERT (Tr2) setup2", HUBERT, "setup2", False, 2),
    "s4_prime": ("S4'", "DistilHuBERT (Tr2) setup2", ADAPTED, "setup2", False, 2),
    "s5": ("S5", "DistilHuBERT (Tr2) setup1 + DAT", HUBERT, "setup1", True, 2),
    "s5_prime": ("S5'", "DistilHuBERT (Tr2) setup1 + DAT", ADAPTED, "setup1", True, 2),
    "s6": ("S6", "DistilHuBERT (Tr2) setup2 + DAT", HUBERT, "setup2", True, 2),
    "s6_prime": ("S6'", "DistilHuBERT (Tr2) setup2 + DAT", ADAPTED, "setup2", True, 2),
    "s7": ("S7", "DistilHuBERT (Tr1)", HUBERT, "none", False, 1),
    "s7_prime": ("S7'", "DistilHuBERT (Tr1) setup2", ADAPTED, "setup2", False, 1),
    "s8": ("S8", "DistilHuBERT (Tr3)", HUBERT, "none", False, 3),
    "s8_prime": ("S8'", "DistilHuBERT (Tr3) setup2", ADAPTED, "setup2", False, 3),
}


def test_the_rows_are_those_of_the_papers_tables():
    for table in ("table1_ks_ic_er_accuracy.csv", "table2_asr_wer.csv"):
        with (RECIPES / "paper" / table).open(encoding="utf-8") as file:
            published = [(r["row"], r["model"], r["domain_adapted_teacher"]) for r in csv.DictReader(file)]
        ours = {row: (row, model, "yes" if row.endswith("'") else "no") for row, model, *_ in ROWS.values()}
        assert sorted(published) == sorted(ours.values())


@pytest.mark.parametrize("name", ROWS)
def test_a_row_is_what_the_paper_describes(name):
    _, model, teacher, cdm, dat, layers = ROWS[name]
    recipe = load(name)
    assert (recipe.name, recipe.teacher) == (name, teacher)
    assert recipe.description.startswith(model)
    assert ("domain-adapted" in recipe.description) == name.endswith("_prime")
    if cdm is None:
        assert recipe.kind == ("adapt" if name == "t1_prime" else "teacher")
        return
    assert isinstance(recipe, DistillRecipe)
    assert (recipe.cdm, recipe.dat.enabled, recipe.student.layers) == (cdm, dat, layers)
    # What all rows share, section 4 of the paper and DistilHuBERT's configuration.
    assert recipe.student.targets == (4, 8, 12)
    assert recipe.cosine_weight == 1.0 and recipe.dat.weight == 0.01
    optim = recipe.optim
    assert (optim.lr, optim.betas, optim.eps, optim.weight_decay) == (2e-4, (0.9, 0.98), 1e-6, 1e-6)
    assert (optim.warmup, optim.clip_norm, optim.max_steps) == (0.07, 5.0, 20_000)
    assert (recipe.data.batch_size, recipe.data.max_samples) == (24, 250_000)
    assert recipe.distortion == CONDITIONS["2-dist"]
    assert recipe.data.train[0] == "data/librispeech/train-clean-100.jsonl.gz" and len(recipe.data.train) == 3


def test_the_setups_are_who_hears_what():
    assert CDM == {
        "none": (None, None),
        "setup1": (None, "student"),
        "setup2": ("teacher", "student"),
        "setup2_same": ("student", "student"),
    }


def test_every_shipped_recipe_loads_and_has_a_row_or_a_reason():
    assert set(recipe_names()) >= {*ROWS, "mini", "mini_teacher", "real_mini", "real_mini_teacher"}
    for name in recipe_names():
        assert load(name).name == name
        assert load(name).description


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_line_that_sets_something_says_why(path):
    sets = re.compile(r"\s*[\w]+:\s*[^\s#]")  # a key with a value; headings of sections set nothing
    silent = [line for line in path.read_text().splitlines() if sets.match(line) and "  # " not in line]
    assert not silent, f"{path.name}: no comment on " + "; ".join(map(str.strip, silent))


@pytest.mark.parametrize("row", ["s1", "s4"])
def test_the_recipes_of_the_authors_values_differ_in_these_alone(row):
    row_recipe, authors = load_distil(row), load_distil(f"{row}_authors")
    assert authors.distortion == CONDITIONS["2-dist"].of_variant("authors")
    same = {"name": row, "description": row_recipe.description, "distortion": row_recipe.distortion}
    assert replace(authors, **same) == row_recipe


@pytest.mark.parametrize("row", ["s1", "s4"])
def test_the_recipes_of_wavlm_differ_in_the_teacher_alone(row):
    wavlm = load_distil(f"{row}_wavlm")
    assert wavlm.teacher == "microsoft/wavlm-base-plus"
    recipe = load_distil(row)
    same = {"name": row, "description": recipe.description, "teacher": recipe.teacher}
    assert replace(wavlm, **same) == recipe


def spiral(name: str) -> SpiralRecipe:
    recipe = load(name)
    assert isinstance(recipe, SpiralRecipe)
    return recipe


@pytest.mark.parametrize(
    ("name", "batch", "steps", "ema", "crop"),
    [
        ("spiral_base", 24 * 16, 200_000, (0.995, 1.0), 250_000),
        ("spiral_large", 20 * 32, 500_000, (0.990, 0.999), 256_000),
    ],
)
def test_spirals_are_trained_as_their_code_does(name, batch, steps, ema, crop):
    recipe = spiral(name)
    optim = recipe.optim
    assert (recipe.data.batch_size, optim.max_steps, recipe.data.max_samples) == (batch, steps, crop)
    assert optim.warmup * steps == pytest.approx(32_000)
    assert (recipe.ema.base, recipe.ema.final, recipe.ema.steps) == (*ema, steps)
    assert (optim.lr, optim.betas, optim.eps, optim.weight_decay) == (3e-3, (0.9, 0.98), 1e-6, 0.01)
    assert (optim.decay, optim.clip_norm, recipe.data.min_samples) == ("cosine", 0.0, 32_000)
    assert recipe.masking == SpecAugment() and (recipe.shift, recipe.distort) == (16, False)
    assert recipe.heads.dim == (512 if name == "spiral_large" else 256)


@pytest.mark.parametrize("name", ["spiral_base", "spiral_large"])
def test_multi_condition_training_changes_the_noise_alone(name):
    recipe, mct = spiral(name), spiral(f"{name}_mct")
    noise = mct.distortion
    assert (mct.distort, noise.additive, noise.non_additive) == (True, ("dns", "none"), ("none",))
    assert (noise.snr_db, noise.strung, noise.rir) == ((0, 30), True, False)
    sources = [*mct.data.noises["dns"], *mct.data.dev_noises["dns"]]
    assert [source.partition("?")[2] for source in sources] == ["part=0-0.8", "part=0.8-0.9"]
    data = replace(mct.data, noises=recipe.data.noises, dev_noises=recipe.data.dev_noises)
    same = {"name": name, "description": recipe.description, "distort": False, "data": data}
    assert replace(mct, **same, distortion=recipe.distortion) == recipe


@pytest.mark.parametrize(
    ("name", "section", "values"),
    [
        ("no_teacher_noise", "ema", {"noise": False}),
        ("teacher_masks", "ema", {"masking": SpecAugment()}),
        ("predictor_ln", "heads", {"predictor": "layer"}),
        ("conv_projection", "heads", {"projection": "convolution"}),
        ("no_predictor", "heads", {"predictor": "none"}),
        ("no_predictor_conv_projection", "heads", {"predictor": "none", "projection": "convolution"}),
        ("no_shift", "shift", 0),
    ],
)
def test_an_ablation_changes_one_thing(name, section, values):
    """Tables 8 and 9 of SPIRAL's paper."""
    base, changed = spiral("spiral_base"), spiral(f"spiral_base_{name}")
    before = getattr(base, section)
    wanted = replace(before, **values) if isinstance(values, dict) else values
    assert getattr(changed, section) == wanted != before
    same = {"name": base.name, "description": base.description, section: before}
    assert replace(changed, **same) == base
