"""The front matter of a card, read by the hub's own parser."""

import pytest
import yaml
from huggingface_hub import ModelCard

from distill.checkpoints import MeasuredScore, export, load_teacher
from distill.checkpoints.card_metadata import front_matter

KS = {
    "task": "keyword spotting",
    "task_type": "audio-classification",
    "dataset": "Speech Commands v1",
    "dataset_type": "google/speech_commands",
    "metric": "accuracy",
    "metric_name": "accuracy in %, higher is better",
    "column": "ks accuracy %",
    "settings": {"features": "last", "seeds": [0, 1]},
}
SCORES = [
    MeasuredScore(condition="clean", value=95.901, **KS),
    MeasuredScore(condition="fsd", value=93.1, **KS),
]


def test_the_hub_reads_scores_licence_datasets_and_teacher(tmp_path):
    recipe = {
        "kind": "distil",
        "name": "s4",
        "data": {"root": "/data", "train": ["/data/librispeech/train-clean-100.jsonl.gz", "mine.tsv"]},
    }
    folder = export(
        load_teacher("random:mini"),
        "huggingface",
        tmp_path / "out",
        recipe=recipe,
        provenance={"teacher_hub_id": "facebook/hubert-base-ls960"},
        scores=SCORES,
        license="apache-2.0",
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "facebook/hubert-base-ls960"
    assert card.data.datasets == ["openslr/librispeech_asr"]
    assert card.data.pipeline_tag == "feature-extraction" and card.data.metrics == ["accuracy"]
    assert "knowledge-distillation" in card.data.tags and card.data.model_name == "s4"
    found = [
        (r.task_type, r.dataset_type, r.dataset_config, r.metric_value) for r in card.data.eval_results or ()
    ]
    assert found == [("audio-classification", "google/speech_commands", "clean", 95.9)] + [
        ("audio-classification", "google/speech_commands", "fsd", 93.1)
    ]
    assert "| fsd | 93.1 |" in card.text


def test_nothing_is_stated_that_is_not_known():
    values = yaml.safe_load(front_matter("HuBERT", {}, {}).strip("-\n"))
    assert values.keys() == {"library_name", "pipeline_tag", "tags"}


def test_a_published_teacher_was_not_trained_on_the_data_of_its_recipe():
    recipe = {"kind": "teacher", "data": {"train": ["librispeech/train-clean-100.jsonl.gz"]}}
    assert "datasets" not in front_matter("t1", {}, recipe)


@pytest.mark.parametrize("name", ["a: b", "---", "- x", "'", '"\n---\nlicense: mit', "yes", "#", "ß\u2028"])
def test_names_are_text_and_nothing_else(tmp_path, name):
    folder = export(
        load_teacher("random:mini"),
        "huggingface",
        tmp_path,
        recipe={"name": name, "description": f"{name}\n---"},
        provenance={"teacher_hub_id": name},
        scores=SCORES,
        license=name,
    )
    values = ModelCard.load(folder / "README.md").data.to_dict()
    assert values["license"] == name
    assert values.get("base_model") == (name if name == "yes" else None)  # the others are no ids of the hub
    assert values["model-index"][0]["name"] == "".join(c if c.isprintable() else " " for c in name)
