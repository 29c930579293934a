"""Runs of `distill adapt`: their head, and what regularises them."""

import json

import pytest
import torch

from distill.adaptation import heads
from distill.adaptation.targets import Targets
from distill.checkpoints import load_teacher
from distill.checkpoints.codebooks import load_codebook
from distill.config import load
from distill.errors import CheckpointError, ConfigError
from distill.hubert import HubertEncoder
from distill.run import run
from tests.distill.adaptation.small_recipes import adapt_recipe
from tests.paths import GOLDEN

CHECKPOINT = GOLDEN / "hubert_base_fairseq.pt"


def test_a_teacher_without_a_head_and_one_that_is_a_checkpoint(
    finished, mini_data, tmp_path, capsys, monkeypatch
):
    ckpt = finished / "checkpoints/last.ckpt"
    found, kept = heads.read_head(str(ckpt)), heads.read_head(str(finished))
    assert found is not None and kept is not None
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((finished / "teacher.safetensors").read_bytes())
    bare.with_suffix(".json").write_text((finished / "teacher.json").read_text())
    made = run(adapt_recipe(mini_data, f"teacher={bare}"), tmp_path / "run")
    assert f"prediction head started afresh: {bare} has none" in capsys.readouterr().err
    assert json.loads(made.with_suffix(".json").read_text())["provenance"]["head"] == "new"


def test_whose_head_it_was_is_still_known_after_a_resume(finished, mini_data, tmp_path):
    made = json.loads((finished / "teacher.json").read_text())["provenance"]
    assert made["head"] == "new"
    run(adapt_recipe(mini_data, "optim.max_steps=4"), finished, resume=True)
    resumed = json.loads((finished / "teacher.json").read_text())["provenance"]
    assert resumed["head"] == "new" and resumed["step"] == 4


def test_the_recipe_regularises_the_encoder_whatever_its_checkpoint_says(mini_data, tmp_path):
    options = ["encoder.layerdrop=0.5", "encoder.cnn_grad_scale=0.1", "encoder.projection_dropout=0.2"]
    made = run(adapt_recipe(mini_data, *options), tmp_path / "run")
    config = load_teacher(str(made)).config
    assert (config.layerdrop, config.cnn_grad_scale, config.projection_dropout) == (0.5, 0.1, 0.2)
    assert config.dropout == HubertEncoder.from_preset("mini").config.dropout
    with pytest.raises(ConfigError, match="layerdrop must be between 0 and 0.99, not 1.5"):
        adapt_recipe(mini_data, "encoder.layerdrop=1.5")


@pytest.mark.parametrize("name", ["t1_prime", "hubert_base_it1", "hubert_base_it2"])
def test_pre_training_is_regularised_as_huberts(name):
    """fairseq's configuration of HuBERT base."""
    encoder = load(name).encoder
    assert (encoder.cnn_grad_scale, encoder.layerdrop, encoder.projection_dropout) == (0.1, 0.05, 0.1)
    assert (encoder.dropout, encoder.attention_dropout, encoder.activation_dropout) == (0.1, 0.1, 0.0)


def test_a_fairseq_teachers_head_is_dropped_with_a_word(mini_data, tmp_path, capsys):
    run(adapt_recipe(mini_data, f"teacher={CHECKPOINT}"), tmp_path / "size")
    assert f"afresh: that of {CHECKPOINT} is for 20 clusters, the targets have 10" in capsys.readouterr().err
    made = run(adapt_recipe(mini_data, f"teacher={CHECKPOINT}", "targets.clusters=20"), tmp_path / "codebook")
    assert "does not predict these targets (another codebook?): right on" in capsys.readouterr().err
    assert json.loads(made.with_suffix(".json").read_text())["provenance"]["head"] == "new"


def test_a_head_that_fits_is_used_and_goes_with_the_run(mini_data, tmp_path, capsys, monkeypatch):
    """A run's own targets with the codebook of the run before; whether the guesses are right is played."""
    first = run(adapt_recipe(mini_data, "teacher=random:mini"), tmp_path / "first").parent
    assert "prediction head" not in capsys.readouterr().err
    monkeypatch.setattr(heads.Agreement, "above_chance", True)
    started = []
    monkeypatch.setattr(
        "distill.adaptation.run.fit",
        lambda trainer, module, *_, **__: started.append(heads.head_of(module.state_dict())) or 0.0,
    )
    monkeypatch.setattr("distill.adaptation.run.release", lambda *_: tmp_path)
    monkeypatch.setattr("distill.adaptation.run._keep_head", lambda *_: None)
    codebook = f"targets.codebook={first}/targets/train"
    run(adapt_recipe(mini_data, f"teacher={first}", codebook), tmp_path / "second")
    assert f"prediction head of {first} taken over: right on" in capsys.readouterr().err
    head = heads.read_head(str(first))
    assert head is not None and all(torch.equal(started[0][name], head[name]) for name in head)
    made = Targets.load(tmp_path / "second" / "targets" / "dev")
    assert torch.equal(made.codebook, load_codebook(first / "targets" / "train"))


def test_a_spiral_cannot_be_adapted(mini_data, tmp_path):
    with pytest.raises(CheckpointError, match="is a SPIRAL encoder: masked prediction") as error:
        run(adapt_recipe(mini_data, "teacher=random:spiral_mini"), tmp_path / "run")
    assert "\n" not in str(error.value)
