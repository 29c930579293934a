"""The model card states what training did, and nothing that was switched off."""

import json
import re
from dataclasses import asdict

import pytest
import yaml

from distill.checkpoints import teacher_facts
from distill.checkpoints.model_card import model_card, read_scores
from distill.config import load, to_yaml
from distill.config.method import method_facts
from distill.distortions.options import DistortionConfig
from distill.errors import CheckpointError
from distill.hubert import HubertConfig
from distill.options import (
    AdaptRecipe,
    DataConfig,
    DistillRecipe,
    ObjectiveConfig,
    Recipe,
    RelationsConfig,
    TargetsConfig,
)


def card_of(recipe: dict, provenance: dict | None = None) -> str:
    return model_card(HubertConfig(), 0, recipe=recipe, provenance=provenance)


NOISES = {"musan": ["musan.jsonl.gz"], "wham": ["wham.jsonl.gz"]}


@pytest.mark.parametrize(
    ("recipe", "distorted"),
    [
        (DistillRecipe(cdm="none"), False),
        (DistillRecipe(cdm="setup1"), True),
        (AdaptRecipe(distort=False), False),
        (AdaptRecipe(distort=True), True),
    ],
)
def test_the_card_tells_what_training_heard(recipe, distorted):
    """Every recipe has noises and a distortion section, used or not."""
    recipe.data.noises, recipe.data.train = NOISES, ["speech.jsonl.gz"]
    lines = card_of(yaml.safe_load(to_yaml(recipe))).splitlines()
    assert "* speech: speech.jsonl.gz" in lines
    for line in ("* noise, musan: musan.jsonl.gz", "* noise, wham: wham.jsonl.gz", "* distortion.rir: false"):
        assert (line in lines) == distorted
    assert distorted == any("distortion.additive" in line for line in lines)
    if isinstance(recipe, AdaptRecipe):
        assert f"* distort: {json.dumps(distorted)}" in lines
    else:
        assert f"* cdm: {recipe.cdm}" in lines


def test_the_card_names_only_the_noises_that_are_drawn():
    recipe = DistillRecipe(cdm="setup2", distortion=DistortionConfig(additive=("wham", "none")))
    recipe.data.noises = NOISES
    card = card_of(yaml.safe_load(to_yaml(recipe)))
    assert "* noise, wham: wham.jsonl.gz" in card and "musan" not in card


def test_the_card_leaves_out_what_is_off_or_not_set():
    lines = card_of(yaml.safe_load(to_yaml(DistillRecipe()))).splitlines()
    assert "* dat.enabled: false" in lines and not any(line.startswith("* dat.weight") for line in lines)
    assert "* data.batch_size: 24" in lines and not any("batch_seconds" in line for line in lines)
    assert not any(line.endswith(": null") for line in lines)
    for features in ("mfcc", "layer"):
        card = card_of(yaml.safe_load(to_yaml(AdaptRecipe(targets=TargetsConfig(features=features)))))
        assert f"* targets.features: {features}" in card
        assert ("* targets.layer: 6" in card) == (features == "layer")
    lines = card_of(yaml.safe_load(to_yaml(DistillRecipe(data=DataConfig(batch_seconds=350))))).splitlines()
    assert "* data.batch_seconds: 350" in "\n".join(lines)
    assert not any("batch_size" in line for line in lines)


def test_the_card_says_how_a_recipe_differs_from_the_one_of_its_name():
    recipe = load("s4", ["cdm=setup1"])
    card = card_of(asdict(recipe), method_facts(recipe))
    assert "\n\nNot s4 as it ships: cdm: setup2 -> setup1.\n\n" in card
    assert "recipe_settings: " in card_of({}, method_facts(recipe))  # of a file whose recipe is not beside it
    assert "recipe_" not in card and card.count("setup2 -> setup1") == 1
    assert "as it ships" not in card_of(asdict(load("s4")), method_facts(load("s4")))
    for odd in ("x", [], 3, [["\n# a"], None]):
        assert "\n# a" not in card_of({}, {"recipe": "s4", "recipe_changes": odd})


def test_the_card_names_the_terms_that_were_on():
    assert "objective" not in card_of(yaml.safe_load(to_yaml(DistillRecipe())))
    objective = ObjectiveConfig(input=0.5, relations=RelationsConfig(weight=2.0, layers=(6, 12)))
    lines = card_of(yaml.safe_load(to_yaml(DistillRecipe(objective=objective)))).splitlines()
    assert [line for line in lines if "objective" in line] == [
        *("* objective.relations.weight: 2.0", "* objective.relations.layers: [6, 12]"),
        *("* objective.input: 0.5", "* objective.regression: 1.0"),
    ]


def test_the_card_of_a_teacher_as_it_was_published():
    """Its recipe has the options of a training that there was none of."""
    recipe = Recipe(kind="teacher", name="t1")
    recipe.data.noises, recipe.data.train = NOISES, ["speech.jsonl.gz"]
    card = card_of(yaml.safe_load(to_yaml(recipe)))
    assert card.count("nothing was trained") == 2
    assert not any(word in card for word in ("musan", "speech.jsonl.gz", "distortion", "optim", "batch_size"))


@pytest.mark.parametrize("source", ["models/hubert_base.pt", "exports/t1_prime", "some-lab/hubert-mini"])
def test_only_a_teacher_of_the_hub_is_a_base_model(tmp_path, monkeypatch, source):
    for folder in ("models", "exports/t1_prime"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "models" / "hubert_base.pt").touch()
    monkeypatch.chdir(tmp_path)
    facts = teacher_facts(source)
    monkeypatch.chdir("/")  # a card is made anywhere
    front = yaml.safe_load(card_of({}, facts).split("---")[1])
    assert front.get("base_model") == (source if source.startswith("some-lab") else None)
    assert facts["teacher"] == source
    assert "base_model" not in card_of({}, {"teacher": source})  # of a run that did not note it down


HOSTILE = "a\n---\nlicense: mit\n---\n# b <script>x</script> ![y](http://z) | \x1b[2J\ud800"


@pytest.mark.parametrize(
    "wrong",
    [HOSTILE, "lab/x\nlicense: mit", "lab/x\n", ["lab/x"], {"a": 1}, None, 5, "../x", "a/b/c", "x" * 200],
)
def test_a_hub_id_that_is_none_is_not_stated(wrong):
    front = yaml.safe_load(card_of({}, {"teacher_hub_id": wrong}).split("---\n")[1])
    assert front.keys() == {"library_name", "pipeline_tag", "tags"}


def test_no_name_is_markup_or_front_matter():
    recipe = {"name": HOSTILE, "description": f"- {HOSTILE}", "cdm": HOSTILE, "kind": HOSTILE}
    recipe |= {"data": {"train": [HOSTILE], "noises": {HOSTILE: [HOSTILE]}}, "student": {HOSTILE: HOSTILE}}
    card = card_of(recipe, {"recipe": HOSTILE, HOSTILE: {HOSTILE: [HOSTILE]}})
    assert card.encode()
    front, body = card.removeprefix("---\n").split("\n---\n", 1)
    assert "license" not in yaml.safe_load(front)
    lines = body.splitlines()
    assert not [line for line in lines if re.search(r"(?<!\\)<script|(?<!\\)!\[|^license|^---|\x1b", line)]
    assert sum(line.startswith("# ") for line in lines) == 1


def test_odd_values_of_a_recipe_are_no_traceback():
    for odd in (None, 5, float("nan"), [], [1], {}, {"a": [1]}, {1: 2}, "x" * 100_000):
        recipe = {"data": odd, "distortion": odd, "student": odd, "seed": odd, "description": odd}
        recipe |= {"objective": odd}
        nested = {
            "data": {"train": odd, "dev": odd, "root": odd, "noises": odd},
            "distortion": {"additive": odd},
            "objective": {"units": {"weight": odd, "codebook": odd}, "input": odd},
        }
        for values in (recipe, nested, {"name": odd, "kind": odd, "cdm": odd}):
            assert len(card_of(values, {"recipe": odd, "noises_heard": odd})) < 30_000


NO_SCORES = (
    *('{"clean": {"KS": NaN}}', '{"clean": {"KS": 1e999}}', '{"clean": {"KS": 1' + "0" * 400 + "}}"),
    *('{"clean": {"KS": true}}', '{"clean": {"KS": "1"}}', '{"a": [1]}', '{"a": 5}', "\ud800"),
    *("[" * 100_000, '{"a": ' * 100_000),
)


@pytest.mark.parametrize("text", NO_SCORES, ids=range(len(NO_SCORES)))
def test_scores_that_are_none_are_refused(tmp_path, text):
    (tmp_path / "scores.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(CheckpointError, match=r"scores\.json") as caught:
        read_scores(tmp_path / "scores.json")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500
