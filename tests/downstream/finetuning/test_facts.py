"""What is kept about how a model was made."""

import pytest
import yaml

from distill import load_teacher
from distill.checkpoints import native
from distill.downstream.finetuning.facts import described, hears_noise, pretraining_facts

SPIRAL = {
    "kind": "spiral",
    "name": "spiral_base_mct",
    "distort": True,
    "distortion": {"additive": ["dns", "none"], "non_additive": ["none"]},
    "data": {"train": ["d/librispeech/train-clean-100.jsonl.gz"], "noises": {"dns": ["d/dns.jsonl.gz"]}},
    "optim": {"max_steps": 200_000},
    "shift": 16,
    "heads": {"predictor": "batch"},
}


def test_facts_of_a_recipe():
    found = described(SPIRAL)
    assert found["train"] == ["librispeech/train-clean-100"] and found["steps"] == 200_000
    assert found["mct"] is True and found["shift"] == 16 and found["heads"] == {"predictor": "batch"}
    assert found["noises"] == {"dns": ["d/dns.jsonl.gz"]}


@pytest.mark.parametrize(
    ("changes", "heard"),
    [
        ({}, True),
        ({"distort": False}, False),
        ({"distortion": {"additive": ["none"], "non_additive": ["none"]}}, False),
        ({"kind": "distil"}, None),
    ],
)
def test_whether_noise_was_heard(changes, heard):
    assert hears_noise(SPIRAL | changes) is heard


def test_facts_of_checkpoints(tmp_path):
    assert pretraining_facts("random:mini") == (None, [])
    assert pretraining_facts(str(tmp_path / "gone")) == (None, [])
    native.write(load_teacher("random:mini"), tmp_path, {"recipe": "spiral_base_mct"})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SPIRAL))
    facts, heard = pretraining_facts(str(tmp_path))
    assert facts == described(SPIRAL) and heard == ["dns"]
