"""Distiller checkpoints of s3prl, against its own model where s3prl is installed."""

import argparse
import sys
from importlib import import_module
from math import prod
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill.checkpoints import export, inspect, load_student, load_teacher, safe_pickle
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student

SLOW = (*HubertEncoder.from_preset("mini", layers=1).config.conv_layers, (32, 2, 2))
TOLERANCE = 1e-5  # measured: 1.8e-7


def make_student(targets=(2, 4, 6), **changes) -> Student:
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini", **changes)
    student = Student.from_teacher(teacher, layers=2, targets=targets).eval()
    for name, parameter in student.named_parameters():
        if "norm" in name:  # ones and zeros would hide a mix-up
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return student


def distiller(ckpt: Path):
    """Stock s3prl's expert, in eval mode."""
    pytest.importorskip("s3prl")
    import_module("distill.upstream.s3prl_compat")
    from s3prl.upstream.distiller.hubconf import distiller_local

    return distiller_local(str(ckpt)).eval()


@pytest.mark.parametrize("targets", [(2, 4, 6), (5,)])
@torch.no_grad()
def test_stock_s3prl_gives_the_same(tmp_path, targets):
    student = make_student(targets)
    assert export(student, "s3prl", tmp_path) == tmp_path / "distiller.ckpt"
    expert = distiller(tmp_path / "distiller.ckpt")
    waves = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    for batch in (waves, waves[:1, :4321]):
        theirs, ours = expert(list(batch)), student(batch)
        torch.testing.assert_close(theirs["paper"], ours.z, rtol=0, atol=TOLERANCE)
        hidden = theirs["hidden_states"]  # its projection's output, its layers, its predictions
        expected = [*ours.hidden_states[1:], *ours.predictions.unbind(1)]
        assert len(hidden) == 1 + len(expected)
        for other, mine in zip(hidden[1:], expected, strict=True):
            torch.testing.assert_close(other, mine, rtol=0, atol=TOLERANCE)
    assert expert.model.model.config.pred_layer_id == list(targets)


@torch.no_grad()
def test_a_pre_norm_student_predicts_from_behind_its_final_norm(tmp_path):
    """As s3prl's own model with `layer_norm_first`; its layers' outputs stay raw in both."""
    student = make_student(pre_norm=True, conv_norm="layer")
    expert = distiller(export(student, "s3prl", tmp_path))
    waves = torch.randn(2, 9000, generator=torch.Generator().manual_seed(1))
    theirs, ours = expert(list(waves))["hidden_states"], student(waves)
    expected = [*ours.hidden_states[1:], *ours.predictions.unbind(1)]
    for other, mine in zip(theirs[1:], expected, strict=True):
        torch.testing.assert_close(other, mine, rtol=0, atol=TOLERANCE)
    again = load_student(tmp_path)
    assert again.encoder.config.pre_norm and again.to_dict() == student.to_dict()


@torch.no_grad()
def test_a_model_made_by_s3prl(tmp_path):
    """Read from what its pre-training writes: pickled schedule and arguments, old stream."""
    pytest.importorskip("s3prl")
    import_module("distill.upstream.s3prl_compat")
    from s3prl import optimizers
    from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel

    settings = {
        "extractor_conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 48, "conv_pos": 16,
        "encoder_attention_heads": 4, "conv_pos_groups": 4, "final_dim": 32, "n_tasks": 3,
        "pred_layer_id": [4, 8, 12], "feature_grad_mult": 0.1,
    }  # fmt: skip
    torch.manual_seed(3)
    model = DistillerModel(DistillerConfig(settings)).eval()
    schedule = optimizers.WarmupLinearSchedule(warmup=0.07, t_total=10)
    contents = {
        "Distiller": model.state_dict(),
        "Config": {"distiller": settings, "teacher": {"model": "hubert_base"}},
        "Args": argparse.Namespace(upstream="distiller"),
        "Optimizer": {"state": {}, "param_groups": [{"schedule": schedule}]},
        "Step": 200_000,
    }
    torch.save(contents, tmp_path / "model.ckpt", _use_new_zipfile_serialization=False)
    student = load_student(tmp_path / "model.ckpt")
    assert student.targets == (4, 8, 12) and not student.training
    waves = torch.randn(2, 5000, generator=torch.Generator().manual_seed(1))
    _, _, predictions, _, layers = model(waves, torch.ones_like(waves), get_hidden=True)
    out = student(waves)
    torch.testing.assert_close(out.predictions, predictions, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(out.z, layers[-1], rtol=0, atol=TOLERANCE)
    assert inspect(tmp_path / "model.ckpt").provenance == {"step": 200_000}


@pytest.mark.parametrize("targets", [(2, 4, 6), (5,)])
def test_round_trip_is_exact(tmp_path, targets):
    student = make_student(targets)
    export(student, "s3prl", tmp_path / "mine.ckpt", provenance={"made": "by a test"})
    again = load_student(tmp_path / "mine.ckpt")
    assert again.to_dict() == student.to_dict()
    for name, weight in student.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    info = inspect(tmp_path / "mine.ckpt")
    assert (info.format, info.kind, info.targets) == ("s3prl", "student", targets)
    assert info.provenance == {"made": "by a test"}
    with pytest.raises(CheckpointError, match="holds a student, expected a teacher"):
        load_teacher(tmp_path / "mine.ckpt")


def official_shapes() -> dict[str, tuple[int, ...]]:
    """The weights of the published DistilHuBERT (base, two layers, targets 4, 8 and 12)."""
    linear = {"self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj"}
    shapes: dict[str, tuple[int, ...]] = {
        "feature_extractor.conv_layers.0.0.weight": (512, 1, 10),
        "feature_extractor.conv_layers.0.2.weight": (512,),
        "feature_extractor.conv_layers.0.2.bias": (512,),
        **{f"feature_extractor.conv_layers.{i}.0.weight": (512, 512, 3) for i in range(1, 5)},
        **{f"feature_extractor.conv_layers.{i}.0.weight": (512, 512, 2) for i in (5, 6)},
        "post_extract_proj.weight": (768, 512),
        "post_extract_proj.bias": (768,),
        "encoder.pos_conv.0.bias": (768,),
        "encoder.pos_conv.0.weight_g": (1, 1, 128),
        "encoder.pos_conv.0.weight_v": (768, 48, 128),
        "encoder.layer_norm.weight": (768,),
        "encoder.layer_norm.bias": (768,),
        "output_layer.0.weight": (2304, 768),
        "output_layer.0.bias": (2304,),
        "output_layer.2.weight": (3, 768, 768),
        "output_layer.2.bias": (1, 1, 3, 768),
    }
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        for name in linear:
            shapes |= {f"{layer}.{name}.weight": (768, 768), f"{layer}.{name}.bias": (768,)}
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes |= {f"{layer}.{name}.weight": (768,), f"{layer}.{name}.bias": (768,)}
        shapes |= {f"{layer}.fc1.weight": (3072, 768), f"{layer}.fc1.bias": (3072,)}
        shapes |= {f"{layer}.fc2.weight": (768, 3072), f"{layer}.fc2.bias": (768,)}
    return shapes


def test_the_official_layout(tmp_path):
    """A base student is written as the published one is, and that is read (weight norm's new names too)."""
    student = Student.from_teacher(HubertEncoder.from_preset("base", layers=12)).eval()
    export(student, "s3prl", tmp_path)
    written = torch.load(tmp_path / "distiller.ckpt", weights_only=True)
    assert {name: tuple(weight.shape) for name, weight in written["Distiller"].items()} == official_shapes()
    parametrized = {
        "weight_g": "parametrizations.weight.original0",
        "weight_v": "parametrizations.weight.original1",
    }
    for old, new in parametrized.items():
        written["Distiller"] = {key.replace(old, new): value for key, value in written["Distiller"].items()}
    written["Config"]["distiller"].pop("extractor_conv_feature_layers")
    torch.save(written, tmp_path / "new.ckpt")
    info = inspect(tmp_path / "new.ckpt")
    encoder = [prod(shape) for name, shape in official_shapes().items() if not name.startswith("output")]
    assert (info.parameters_encoder, info.targets) == (sum(encoder), (4, 8, 12))


@pytest.mark.parametrize("targets", [(2, 4, 6), (5,)])
@torch.no_grad()
def test_heads_by_the_formula(tmp_path, targets):
    """Linear, GELU, and a linear layer for each target over its own share of the features."""
    student = make_student(targets)
    export(student, "s3prl", tmp_path)
    weights = safe_pickle.load(tmp_path / "distiller.ckpt")["Distiller"]
    out = student(torch.randn(1, 4000, generator=torch.Generator().manual_seed(1)))
    hidden = F.gelu(F.linear(out.z, weights["output_layer.0.weight"], weights["output_layer.0.bias"]))
    for index, share in enumerate(hidden.chunk(len(targets), dim=2)):
        if len(targets) == 1:
            expected = F.linear(
                share, weights["output_layer.2.layer.weight"], weights["output_layer.2.layer.bias"]
            )
        else:
            expected = (
                share @ weights["output_layer.2.weight"][index] + weights["output_layer.2.bias"][0, 0, index]
            )
        torch.testing.assert_close(out.predictions[:, index], expected, rtol=0, atol=TOLERANCE)


def broken(tmp_path: Path, change) -> Path:
    export(make_student(), "s3prl", tmp_path)
    contents = safe_pickle.load(tmp_path / "distiller.ckpt")
    change(contents["Distiller"], contents["Config"]["distiller"])
    path = tmp_path / "broken.ckpt"
    torch.save(contents, path)
    return path


def drop(name: str):
    return lambda weights, _: weights.pop(name)


def put(name: str, value: Tensor):
    return lambda weights, _: weights.update({name: value})


def setting(**changes):
    return lambda _, settings: settings.update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            setting(task_emb_type="self-hidden"),
            "task_emb_type 'self-hidden', expected 'expand-last' as in Dist",
        ),
        (setting(layer_norm_first="yes"), "pre_norm is 'yes'"),
        (setting(pred_layer_id=[4, 8]), r"pred_layer_id is \[4, 8\], but there are 3 heads"),
        (setting(extractor_conv_feature_layers="exit()"), "expected a list of"),
        (setting(encoder_attention_heads=7), "must be a multiple of heads"),
        (drop("output_layer.0.bias"), r"heads: output_layer\.0\.bias"),
        (drop("encoder.layers.1.fc1.weight"), r"layers\.1\.ffn_in\.weight is missing"),
        (put("task_embedding.weight", torch.zeros(1)), "DistilHuBERT does not have: task_embedding.weight"),
        (
            put("output_layer.2.weight", torch.zeros(3, 128, 64)),
            r"is \(3, 128, 64\), expected \(targets, D, D\)",
        ),
        (put("output_layer.2.bias", torch.zeros(())), "are not those of DistilHuBERT"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, change, message):
    path = broken(tmp_path, change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_student(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"normalize_input": True},
            "normalize_input is on, and s3prl's Distiller does not normalise waveforms",
        ),
        ({"conv_bias": True}, "has no biases in its convolutions"),
        ({"conv_layers": SLOW}, "frames are 640 samples apart, and s3prl's Distiller says 320"),
    ],
)
def test_students_that_s3prl_cannot_hold(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        export(make_student(**changes), "s3prl", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_s3prl_need_not_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "s3prl", None)  # importing it raises now
    export(make_student(), "s3prl", tmp_path)
    assert load_student(tmp_path).targets == (2, 4, 6)
