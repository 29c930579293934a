"""What of a recipe is its method, and how it differs from the one that ships."""

import json

import pytest

from distill.config import load, recipe_names
from distill.config.method import changes_of, method_facts, method_of, speech_names

SAME = (
    "data.root=/elsewhere",
    "teacher=/models/hubert",
    "name=mine",
    "seed=7",
    "data.order_seed=3",
    "data.workers=0",
    "data.buckets=1",
    "logging.wandb=off",
    "trainer.devices=4",
    "validation.every_n_steps=10",
    "student.activation_checkpointing=true",
    "optim.max_nonfinite=7",
    "distortion.where=device",
    "objective.units.codebook=/units",
)
OTHER = (
    ("cdm=setup1", "cdm: setup2 -> setup1"),
    ("student.layers=3", "student.layers: 2 -> 3"),
    ("student.front=mel", "student.front: cnn -> mel"),
    ("objective.correlation.weight=3", "objective.correlation.weight: 0.0 -> 3.0"),
    ("distortion.snr_db=[0,20]", "distortion.snr_db: [10.0, 20.0] -> [0.0, 20.0]"),
    ("dat.enabled=true", "dat.enabled: false -> true"),
    ("optim.max_steps=10", "optim.max_steps: 20000 -> 10"),
    ("data.batch_size=12", "data.batch_size: 24 -> 12"),
)


@pytest.mark.parametrize("word", SAME)
def test_where_things_are_and_which_draw_it_is_is_no_method(word):
    assert method_of(load("s4", [word])) == method_of(load("s4"))


@pytest.mark.parametrize(("word", "said"), OTHER)
def test_what_changes_the_model_is(word, said):
    assert changes_of("s4", method_of(load("s4", [word]))) == [said]


@pytest.mark.parametrize("name", ["s4", "mini", "real_mini"])
@pytest.mark.parametrize("root", ["/elsewhere", "/elsewhere/", "../x/y"])
def test_the_name_of_the_data_folder_is_no_method(name, root):
    assert method_of(load(name, [f"data.root={root}"])) == method_of(load(name))


def test_less_speech_is_another_method():
    recipe = load("s4", ['data.train=["${data.root}/librispeech/train-clean-100.jsonl.gz"]'])
    (said,) = changes_of("s4", method_of(recipe))
    assert said == "data.train: without librispeech/train-clean-360, librispeech/train-other-500"
    more = ["/home/me/talks.tsv?set=/home/me/x&part=0-0.9"]
    recipe = load("s4", [f"data.train={json.dumps([*recipe.data.train, *more])}"])
    assert changes_of("s4", method_of(recipe)) == [f"{said}; with talks?set=x&part=0-0.9"]
    assert "/home" not in json.dumps(method_facts(recipe))
    one, other = (load("s4", [f"data.train=[{path}]"]) for path in ("/a/b/x.tsv", "/c/x.tsv"))
    assert method_of(one) == method_of(other)
    assert changes_of("s4", [f"data.train={'[' * 4000}"])[-1].startswith("data.train: [")


def test_what_is_done_with_a_finished_model_is_no_method():
    words = ["decoding.lm=/home/me/lm.arpa", "decoding.test_beam=100", "tests.mine.sources=[/home/me/x.tsv]"]
    assert method_of(load("finetune_mini", words)) == method_of(load("finetune_mini"))


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_as_it_ships_has_no_changes(name):
    facts = method_facts(load(name))
    assert facts.keys() == {"recipe", "recipe_settings"} and facts["recipe"] == name


def test_of_recipes_of_others_no_changes_are_known():
    recipe = load("s4", ["name=mine", "cdm=setup1"])
    assert method_facts(recipe).keys() == {"recipe", "recipe_settings"}
    assert method_facts(load("s4", ["cdm=setup1"]))["recipe_changes"] == ["cdm: setup2 -> setup1"]
    assert changes_of("../s4", []) == [] and changes_of("s4", ["what"])[-1] == "what: not set -> "


def test_names_of_speech():
    sources = ["data/slurp/train.tsv?split=a", "/x/librispeech/dev-other.jsonl.gz", "speech"]
    assert speech_names(sources) == ["librispeech/dev-other", "slurp/train?split=a", "speech"]
