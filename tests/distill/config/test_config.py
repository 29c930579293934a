"""Recipes: `extends`, overrides, and what is said about mistakes."""

from dataclasses import replace
from pathlib import Path

import pytest

from distill.config import load, recipe_names, to_yaml
from distill.distortions import CONDITIONS
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
        ("lr", "override 'lr': write key=value, as in optim.lr=1e-4"),
        ("=3", "override '=3': write key=value"),
        ("optim.lr=[1", "override 'optim.lr=[1': the value is not valid YAML"),
        ("name=?", "override 'name=?': a key in it is no text; quote the value"),
    ],
)
def test_overrides_that_are_none(override, message):
    assert refused("s4", override).startswith(message)


def test_unknown_recipes(tmp_path):
    assert refused("s44") == "unknown recipe 's44': did you mean 's4'?"
    assert refused("s4_prim").endswith("did you mean 's4_prime'?")
    assert "choose from finetune_base_100h, " in refused("zzz")
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
