"""Recipes: all that ship, the paper's rows, and what is said about mistakes."""

import csv
import inspect
import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import pytorch_lightning as pl

from distill.config import load, recipe_names, to_yaml
from distill.distortions import CONDITIONS
from distill.errors import ConfigError
from distill.options import CDM, AdaptRecipe, DistillRecipe
from distill.trainer_keys import INSTEAD_OF, TRAINER_KEYS
from distill.training.run_folder import RunFolder
from distill.training.trainer import make_trainer

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


def refused(recipe: str | Path, *overrides: str) -> str:
    """The message of the error, one line."""
    with pytest.raises(ConfigError) as error:
        load(str(recipe), overrides)
    message = str(error.value)
    assert "\n" not in message and "$VALUE" not in message
    return message


def load_distil(recipe: str, overrides: Sequence[str] = ()) -> DistillRecipe:
    loaded = load(recipe, overrides)
    assert isinstance(loaded, DistillRecipe)
    return loaded


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------ shipped recipes


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


# ------------------------------------------------------------------------------------ extends and overrides


def test_a_recipe_states_what_differs(tmp_path):
    path = write(tmp_path / "mine.yaml", "extends: s4\nname: mine\noptim:\n  lr: 1.0e-3\n")
    mine, s4 = load_distil(str(path)), load_distil("s4")
    assert (mine.name, mine.optim.lr) == ("mine", 1e-3)
    assert mine.optim.eps == s4.optim.eps and mine.cdm == s4.cdm and mine.data == s4.data


def test_extends_finds_files_beside_the_recipe(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "base.yaml", "extends: s7\nseed: 3\n")
    path = write(tmp_path / "deep" / "mine.yaml", "extends: base.yaml\n")
    monkeypatch.chdir(tmp_path)
    recipe = load_distil(str(path))
    assert recipe.seed == 3 and recipe.student.layers == 1


def test_overrides_win_and_are_typed():
    recipe = load_distil(
        "s4",
        [
            "optim.lr=1e-3",
            "student.targets=[6,12]",
            "data.root=/corpora",
            "trainer.devices=4",
            "trainer.precision=bf16-mixed",
            "dat.lr=null",
            "logging.wandb=off",
            "data.noises.musan=[a,b]",
        ],
    )
    assert recipe.optim.lr == 1e-3 and recipe.student.targets == (6, 12)
    assert recipe.data.dev == ["/corpora/librispeech/dev-clean.jsonl.gz"]
    assert recipe.trainer == {"devices": 4, "precision": "bf16-mixed"}
    assert recipe.logging.wandb == "off" and recipe.data.noises["musan"] == ["a", "b"]


@pytest.mark.parametrize("row", ["s1", "s4"])
def test_the_recipes_of_the_authors_values_differ_in_these_alone(row):
    row_recipe, authors = load_distil(row), load_distil(f"{row}_authors")
    assert authors.distortion == CONDITIONS["2-dist"].of_variant("authors")
    same = {"name": row, "description": row_recipe.description, "distortion": row_recipe.distortion}
    assert replace(authors, **same) == row_recipe


def test_a_variant_wins_over_the_numbers_below_it_and_not_over_those_beside_it(tmp_path):
    authors = CONDITIONS["2-dist"].of_variant("authors")
    assert load("s4", ["distortion.variant=authors"]).distortion == authors
    assert load("mini", ["distortion.variant=authors"]).distortion == authors  # states no numbers
    assert load("s4_authors", ["distortion.variant=paper"]).distortion == CONDITIONS["2-dist"]
    beside = ["distortion.pitch_cents=300", "distortion.variant=authors"]
    assert load("s4", beside).distortion == replace(authors, pitch_cents=300)
    mine = write(tmp_path / "mine.yaml", "extends: s4_authors\ndistortion: {snr_db: [0, 5]}\n")
    assert load(str(mine)).distortion == replace(authors, snr_db=(0, 5))
    resolved = write(tmp_path / "recipe.yaml", to_yaml(load("s4")))  # of a run: states all numbers
    assert load(str(resolved), ["distortion.variant=authors"]).distortion == authors
    assert load(str(write(tmp_path / "a.yaml", to_yaml(load("s4_authors"))))) == load("s4_authors")


@pytest.mark.parametrize("name", ["s6_prime", "t1", "t1_prime", "mini", "real_mini_teacher"])
def test_yaml_round_trip(name, tmp_path):
    recipe = load(name, ["seed=7", "logging.wandb=off"])
    again = load(str(write(tmp_path / "recipe.yaml", to_yaml(recipe))))
    assert type(again) is type(recipe) and again == recipe


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr': did you mean 'optim.lr'?"),
        ("optm.lr=1", "unknown key 'optm': did you mean 'optim'?"),
        ("distortion.snr=[0,1]", "unknown key 'distortion.snr': did you mean 'distortion.snr_db'?"),
        ("data.zzz=1", "unknown key 'data.zzz'; choose from batch_seconds, batch_size, "),
        ("optim.lr=fast", "optim.lr: Value 'fast' of type 'str' could not be converted to Float"),
        ("seed=1.5", "seed: Value '1.5' of type 'float' could not be converted to Integer"),
        ("optim=3", "optim: a section of keys was expected, not one value (3)"),
        ("student.targets=4", "student.targets: expected a list, as in [4, 8, 12]"),
        ("student.targets=[a]", "student.targets: expected a list, as in [4, 8, 12]"),
        ("optim.betas=[0.9]", "optim.betas: expected a list, as in [0.9, 0.98]"),
        ("data.train=a.tsv", "data.train: expected a list"),
        ("teacher=null", "teacher: Incompatible value 'None'"),
        ("name=${nothing}", "name: Interpolation key 'nothing' not found"),
        ("cdm=setup4", "cdm must be one of none, setup1, setup2, setup2_same, not 'setup4'"),
        ("kind=distill", "kind must be one of distil, adapt, teacher, not 'distill'"),
        ("optim.lr=-1", "optim: lr must be positive, not -1.0"),
        ("dat.lr=0", "dat: lr must be positive, not 0.0"),
        ("optim.max_steps=0", "optim: max_steps must be at least 1"),
        ("optim.accumulate=0", "optim: accumulate must be at least 1"),
        ("optim.warmup=1.0", "optim: warmup must be in [0, 1)"),
        ("optim.clip_norm=-1", "optim: clip_norm must be 0 (off) or positive"),
        ("dat.weight=-1", "dat: weight must not be negative"),
        ("cosine_weight=-1", "cosine_weight must not be negative"),
        ("seed=-1", "seed must not be negative"),
        ("seed=4294967296", "seed must be below 2**32"),
        ("optim.lr=nan", "optim: lr must be finite, not nan"),
        ("optim.eps=.inf", "optim: eps must be finite"),
        ("optim.eps=-1", "optim: eps must not be negative"),
        ("optim.warmup=nan", "optim: warmup must be finite"),
        ("optim.clip_norm=inf", "optim: clip_norm must be finite"),
        ("optim.weight_decay=nan", "optim: weight_decay must be finite"),
        ("optim.betas=[0.9,nan]", "optim: betas must be finite"),
        ("optim.betas=[0.9,1.5]", "optim: betas must be in [0, 1)"),
        ("student.dropout=nan", "student: dropout must be finite"),
        ("student.dropout=2", "student: dropout must be in [0, 1]"),
        ("cosine_weight=nan", "cosine_weight must be finite"),
        ("dat.weight=nan", "dat: weight must be finite"),
        ("data.batch_seconds=inf", "data: batch_seconds must be finite"),
        ("distortion.snr_db=[nan,10]", "distortion: snr_db must be"),
        ("data.batch_size=0", "data: batch_size must be at least 1"),
        ("data.max_samples=399", "data: max_samples must be at least 400 (one frame)"),
        ("data.workers=-1", "data: workers must be at least 0"),
        ("validation.every_n_steps=0", "validation: every_n_steps must be at least 1"),
        ("logging.every_n_steps=0", "logging: every_n_steps must be at least 1"),
        ("logging.wandb=of", "logging: wandb must be auto, online, offline or off, not 'of'"),
        ("distortion.variant=s3prl", "distortion: variant must be paper or authors, got 's3prl'"),
        ("distortion.variant=[1]", "distortion.variant: "),
        ("distortion.snr_db=[20,10]", "distortion: snr_db must be [lowest, highest]"),
        ("distortion.additive=[rain]", "distortion: additive must be a list of musan, "),
    ],
)
def test_a_mistake_is_named_in_one_line(override, message):
    said = refused("s4", override)
    assert said.startswith("s4: ") and message in said


def test_mistakes_of_adapt_recipes():
    assert "targets: features must be mfcc or layer, not 'mel'" in refused("t1_prime", "targets.features=mel")
    assert "targets: clusters must be at least 2" in refused("t1_prime", "targets.clusters=1")
    assert "unknown key 'student'" in refused("t1_prime", "student.layers=2")
    assert isinstance(load("t1_prime"), AdaptRecipe)


def test_dat_needs_distortions():
    assert "s1: dat needs distorted speech: set cdm" in refused("s1", "dat.enabled=true")


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


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "override 'lr': write key=value, as in optim.lr=1e-4"),
        ("=3", "override '=3': write key=value"),
        ("optim.lr=[1", "override 'optim.lr=[1': the value is not valid YAML"),
    ],
)
def test_overrides_that_are_none(override, message):
    assert refused("s4", override).startswith(message)


def test_unknown_recipes(tmp_path):
    assert refused("s44") == "unknown recipe 's44': did you mean 's4'?"
    assert refused("s4_prim").endswith("did you mean 's4_prime'?")
    assert "choose from hubert_base_it1, hubert_base_it2, mini, " in refused("zzz")
    assert refused(tmp_path / "none.yaml") == f"recipe {tmp_path}/none.yaml: no such file"
    # A recipe that is there to be extended is not offered.
    assert not any(name.startswith("_") for name in recipe_names())


def test_circular_extends(tmp_path):
    a = write(tmp_path / "a.yaml", "extends: b.yaml\n")
    b = write(tmp_path / "b.yaml", "extends: a.yaml\n")
    assert f"extends itself, through {a} -> {b} -> {a}" in refused(a)
    alone = write(tmp_path / "c.yaml", "extends: c.yaml\n")
    assert "extends itself" in refused(alone)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"name: [1\ncdm: none\n", ", line 2: not valid YAML"),
        (b"name: a\nname: b\n", ", line 2: not valid YAML (found duplicate key name)"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"- s4\n", "a recipe is a mapping of keys to values"),
        (b"extends: [s4, s5]\n", "extends names one recipe or file, not ['s4', 's5']"),
        (b"extends: s44\n", "mine.yaml: extends: unknown recipe 's44': did you mean 's4'?"),
        (b"extends: s44.yaml\n", "mine.yaml: extends: recipe s44.yaml: no such file"),
        (b"extends: s4\noptim:\n  lrr: 1\n", "unknown key 'optim.lrr': did you mean 'optim.lr'?"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    assert message in refused(path)
