"""Recipes: `extends`, overrides, and what is said about mistakes."""

from dataclasses import replace
from pathlib import Path

import pytest

from distill.config import load, recipe_names, to_yaml
from distill.distortions import CONDITIONS
from distill.options import AdaptRecipe
from tests.distill.recipe_helpers import load_distil, refused


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


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


def test_recipes_reach_clipping_and_time_drop_and_do_not_use_them_unless_told():
    for name in recipe_names():
        distortion = load(name).distortion
        assert distortion.clip_factor is None and distortion.time_drop_s is None
        assert not {"clipping", "time_drop"} & set(distortion.non_additive)
    chosen = ["distortion.non_additive=[reverb,clipping,time_drop,none]", "distortion.time_drop_s=0.2"]
    distortion = load("s4", chosen).distortion
    assert (distortion.clip_factor, distortion.time_drop_s) == ((0.1, 0.5), 0.2)
    assert load("s4", [*chosen, "distortion.clip_factor=[0.3,0.4]"]).distortion.clip_factor == (0.3, 0.4)


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
