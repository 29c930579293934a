"""Checkpoints of real fairseq, against the activations that real fairseq computed."""

import argparse
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checkpoints import fairseq, inspect, load_student, load_teacher, safe_pickle
from distill.errors import CheckpointError
from tests.paths import GOLDEN

TOLERANCE = 2e-5  # measured: 3.4e-6 at the worst


@pytest.fixture(params=["base", "large"])
def golden(request) -> tuple[Path, dict]:
    expected = torch.load(GOLDEN / f"hubert_{request.param}_expected.pt", weights_only=True)
    return GOLDEN / f"hubert_{request.param}_fairseq.pt", expected


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_every_layer_of_the_batch(golden):
    path, expected = golden
    teacher = load_teacher(path)
    assert not teacher.training
    out = teacher(expected["wave"], expected["wave_lengths"], return_cnn=True)
    valid = ~expected["padding_mask"]
    assert out.lengths.tolist() == valid.sum(1).tolist()
    assert len(out.hidden_states) == teacher.config.layers + 1
    assert out.cnn is not None
    close(out.cnn[valid], expected["cnn"][valid])
    for layer in range(1, teacher.config.layers + 1):
        close(out.hidden_states[layer][valid], expected[f"layer{layer}"][valid])


@torch.no_grad()
def test_a_padded_utterance_as_if_it_were_alone(golden):
    """Both ways: inside a padded batch, and alone."""
    path, expected = golden
    teacher = load_teacher(path)
    batch = teacher(expected["wave"], torch.tensor([32_000, 26_000])).hidden_states
    alone = teacher(expected["wave"][1:, :26_000]).hidden_states
    for layer in range(1, teacher.config.layers + 1):
        close(batch[layer][1:, :81], expected[f"short_alone_layer{layer}"])
        close(alone[layer], expected[f"short_alone_layer{layer}"])


@torch.no_grad()
def test_the_pre_training_head(golden):
    """Cross-entropy of the masked frames, by the formula of HuBERT (Hsu et al. 2021, Eq. 3)."""
    path, expected = golden
    teacher, head = load_teacher(path), fairseq.read_head(path)
    assert head is not None
    mask = expected["mask_indices"]
    out = teacher(expected["wave"], expected["wave_lengths"], mask=mask, mask_embedding=head["mask_emb"])
    projected = F.linear(out.last_hidden_state[mask], head["final_proj.weight"], head["final_proj.bias"])
    logits = F.normalize(projected, dim=-1) @ F.normalize(head["label_embs_concat"], dim=-1).T / 0.1
    targets = expected["targets"][mask]
    positive = logits.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(positive, expected["masked_logits"][:, 0], rtol=0, atol=1e-4)
    loss = F.cross_entropy(logits, targets, reduction="sum")
    torch.testing.assert_close(loss, expected["masked_loss_sum"], rtol=1e-5, atol=0)


def test_settings_come_from_the_configuration():
    base, _, provenance = fairseq.read(GOLDEN / "hubert_base_fairseq.pt")
    assert (base.heads, base.layerdrop, base.dropout, base.cnn_grad_scale) == (4, 0.05, 0.1, 1.0)
    assert (base.pre_norm, base.conv_norm, base.conv_bias, base.normalize_input) == (
        False,
        "group",
        False,
        False,
    )
    assert (base.position_kernel, base.position_groups) == (16, 4)
    assert provenance == {"model": "hubert", "fine_tuned": False, "num_updates": 400_000}
    large, _, _ = fairseq.read(GOLDEN / "hubert_large_fairseq.pt")
    assert (large.pre_norm, large.conv_norm, large.conv_bias, large.normalize_input) == (
        True,
        "layer",
        True,
        True,
    )


def contents(name: str) -> dict:
    """The golden checkpoint as plain values, to be rearranged into other layouts."""
    loaded = safe_pickle.load(GOLDEN / f"hubert_{name}_fairseq.pt")
    return {"cfg": safe_pickle.plain(loaded["cfg"]), "model": dict(loaded["model"])}


def old_args(cfg: dict) -> argparse.Namespace:
    return argparse.Namespace(arch="hubert", **(cfg["model"] | {"normalize": cfg["task"]["normalize"]}))


def layouts(name: str) -> dict[str, dict]:
    """The same model in every layout that is out there."""
    cfg, model = (whole := contents(name))["cfg"], whole["model"]
    parametrized = {
        "encoder.pos_conv.0.weight_g": "encoder.pos_conv.0.parametrizations.weight.original0",
        "encoder.pos_conv.0.weight_v": "encoder.pos_conv.0.parametrizations.weight.original1",
    }
    new_torch = {parametrized.get(key, key): value for key, value in model.items()}
    head = ("final_proj.weight", "final_proj.bias", "label_embs_concat")
    tuned = {f"w2v_encoder.w2v_model.{key}": value for key, value in model.items() if key not in head}
    tuned |= {"w2v_encoder.proj.weight": torch.zeros(32, 64), "w2v_encoder.proj.bias": torch.zeros(32)}
    tuned_cfg = {"model": {"_name": "hubert_ctc", "w2v_args": cfg, "dropout": 0.0}, "task": cfg["task"]}
    return {
        "args": {"args": old_args(cfg), "model": model},
        "new torch": {"args": None, "cfg": cfg, "model": new_torch},
        "half precision": {"cfg": cfg, "model": {key: value.half() for key, value in model.items()}},
        "s3prl conversion": {"task_cfg": cfg["task"], "model_cfg": cfg["model"], "model_weight": model},
        "fine-tuned": {"args": None, "cfg": tuned_cfg, "model": tuned},
        "fine-tuned, old": {
            "args": argparse.Namespace(arch="hubert_ctc", w2v_args=old_args(cfg), normalize=name == "large"),
            "model": tuned,
        },
    }


@pytest.mark.parametrize("layout", layouts("base"))
@pytest.mark.parametrize("name", ["base", "large"])
@torch.no_grad()
def test_other_layouts_hold_the_same_model(tmp_path, name, layout):
    path = tmp_path / "model.pt"
    torch.save(layouts(name)[layout], path)
    reference, model = load_teacher(GOLDEN / f"hubert_{name}_fairseq.pt"), load_teacher(path)
    assert model.config == reference.config
    wave = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    tolerance = 0.05 if layout == "half precision" else 0.0
    difference = model(wave).last_hidden_state - reference(wave).last_hidden_state
    assert difference.abs().max() <= tolerance
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert (fairseq.read_head(path) is None) == layout.startswith("fine-tuned")


@torch.no_grad()
def test_a_model_without_projection(tmp_path):
    """Where CNN and transformer are equally wide, fairseq leaves the projection out."""
    whole = contents("base")
    for leaf in ("weight", "bias"):
        del whole["model"][f"post_extract_proj.{leaf}"]
        whole["model"][f"layer_norm.{leaf}"] = torch.rand(64)
    last = "feature_extractor.conv_layers.6.0.weight"
    whole["model"][last] = torch.randn(64, 32, 2)
    whole["cfg"]["model"].pop("conv_feature_layers")
    torch.save(whole, tmp_path / "model.pt")
    teacher = load_teacher(tmp_path / "model.pt")
    assert torch.equal(teacher.projection(torch.arange(64.0)), torch.arange(64.0))


def test_inspect(golden):
    path, _ = golden
    info = inspect(path)
    assert (info.format, info.kind, info.targets) == ("fairseq", "teacher", None)
    model = safe_pickle.load(path)["model"]
    own = [
        value for key, value in model.items() if not key.startswith(("mask_emb", "final_proj", "label_embs"))
    ]
    assert info.parameters_encoder == info.parameters_total == sum(value.numel() for value in own)
    assert any("400000" in line for line in info.lines())


def broken(**changes) -> dict:
    whole = contents("base")
    for key, value in changes.items():
        if key == "drop":
            del whole["model"][value]
        elif key == "add":
            whole["model"] |= value
        else:
            whole["cfg"]["model"][key] = value
    return whole


BROKEN = {
    "holds a data2vec_audio model of fairseq, expected a HuBERT": broken(_name="data2vec_audio"),
    "laid out as a WavLM, but has no gates on its relative position bias": broken(
        add={"encoder.layers.0.self_attn.relative_attention_bias.weight": torch.zeros(320, 4)}
    ),
    "it holds quantizer.vars, project_q.weight, expected a HuBERT": broken(
        add={"quantizer.vars": torch.zeros(1), "project_q.weight": torch.zeros(1)}
    ),
    "layers.2.query.weight is missing": broken(drop="encoder.layers.2.self_attn.q_proj.bias")
    | {"model": {k: v for k, v in contents("base")["model"].items() if "layers.2.self_attn.q_proj" not in k}},
    "projection.weight is missing": broken(drop="post_extract_proj.weight"),
    r"layers.0.ffn_out.weight is \(64, 7\), not \(64, 128\)": broken(
        add={"encoder.layers.0.fc2.weight": torch.zeros(64, 7)}
    ),
    r"dim \(64\) must be a multiple of heads \(7\)": broken(encoder_attention_heads=7),
    "heads is 'four', expected a value such as": broken(encoder_attention_heads="four"),
    "dropout must be in": broken(dropout=1.5),
    "pre_norm is 'yes'": broken(layer_norm_first="yes"),
    "uses relu activations": broken(activation_fn="relu"),
    "conv_feature_layers is": broken(conv_feature_layers="__import__('os').system('true')"),
    "conv_feature_layers is .* expected a list": broken(conv_feature_layers="[(1,2,3)] * 10**9"),
    "7 convolutions but 1 strides": broken(conv_feature_layers="[(32,10,5)]"),
    "has no model configuration": {"cfg": None, "args": None, "model": contents("base")["model"]},
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_is_wrong_is_said_in_one_line(tmp_path, message):
    path = tmp_path / "model.pt"
    torch.save(BROKEN[message], path)
    with pytest.raises(CheckpointError, match=message) as error:
        load_teacher(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_teacher_is_no_student(golden):
    path, _ = golden
    with pytest.raises(
        CheckpointError, match=r"an encoder without prediction heads \(fairseq\), expected a student"
    ):
        load_student(path)


def test_the_model_does_not_hang_on_the_file(tmp_path, golden):
    """Tensors of a zip are mapped: a model must keep copies."""
    path = tmp_path / "model.pt"
    path.write_bytes(golden[0].read_bytes())
    teacher = load_teacher(path)
    before = teacher.projection.weight.clone()
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(teacher.projection.weight, before)


def test_wav2vec2_is_the_same_encoder(tmp_path):
    """Under the names and settings that fairseq's wav2vec 2.0 has, with its own pre-training head."""
    whole = contents("base")
    for name in ("final_proj.weight", "final_proj.bias", "label_embs_concat"):
        del whole["model"][name]
    whole["model"] |= {
        "quantizer.vars": torch.zeros(1, 8, 4),
        "quantizer.weight_proj.weight": torch.zeros(8, 32),
        "project_q.weight": torch.zeros(32, 8),
        "final_proj.weight": torch.zeros(32, 64),
    }
    whole["cfg"]["model"]["_name"] = "wav2vec2"
    torch.save(whole, tmp_path / "model.pt")
    loaded, reference = load_teacher(tmp_path / "model.pt"), load_teacher(GOLDEN / "hubert_base_fairseq.pt")
    assert loaded.config == reference.config and loaded.pretraining_head is None
    for name, weight in reference.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
    assert inspect(tmp_path / "model.pt").provenance["model"] == "wav2vec2"


@pytest.mark.parametrize(
    "text",
    [
        "[(8,10,5)] + 4*[(8,3,2)] + 2 * [(8,2,2)]",
        "[(8,10,5)] + [(8,3,2)] * 2 + 2*[(8,3,2)] + [(8,2,2)] + [(8,2,2)]",
        "[(8,10,5)] + 2*([(8,3,2)] + [(8,3,2)]) + [(8,2,2)] * 2",
    ],
)
def test_ways_to_write_convolutions(text):
    assert fairseq.parse_layers(text, "x.pt") == [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2]


@pytest.mark.parametrize(
    "text", ["1000*[(8,3,2)]", "2*3", "[(8,3)]", "2*(1,2,3)", "__import__('os')", "-1*[(8,3,2)]"]
)
def test_what_is_not_a_list_of_convolutions(text):
    with pytest.raises(CheckpointError, match="conv_feature_layers is"):
        fairseq.parse_layers(text, "x.pt")
