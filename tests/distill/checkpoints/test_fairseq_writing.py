"""What we write as fairseq, against files that real fairseq wrote."""

import argparse
import pickletools
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from distill.checkpoints import (
    export,
    export_checkpoint,
    fairseq,
    fairseq_writing,
    inspect,
    load_teacher,
    native,
    safe_pickle,
)
from distill.config import to_yaml
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.options import AdaptRecipe, MaskingConfig
from distill.waveforms import normalize_waveforms
from tests.paths import GOLDEN


@pytest.fixture(params=["base", "large"])
def golden(request) -> Path:
    return GOLDEN / f"hubert_{request.param}_fairseq.pt"


def pickled_names(path: Path) -> set[str]:
    """Every class and function that the pickle asks for."""
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return {str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}


def test_keys_shapes_and_bits_are_those_of_fairseq(tmp_path, golden):
    assert export_checkpoint(golden, "fairseq", tmp_path) == tmp_path / "hubert.pt"
    original, ours = safe_pickle.load(golden), safe_pickle.load(tmp_path / "hubert.pt")
    assert list(ours) == list(original)
    assert ours["model"].keys() == original["model"].keys()
    for key, tensor in original["model"].items():
        assert torch.equal(ours["model"][key], tensor) and ours["model"][key].dtype == tensor.dtype, key
    theirs = safe_pickle.plain(original["cfg"])
    assert theirs["task"]["data"] == "/data/manifest"  # a place of its author's
    theirs["task"]["data"] = "manifest"
    assert ours["cfg"] == theirs
    assert ours["optimizer_history"] == safe_pickle.plain(original["optimizer_history"])


def test_the_pickle_asks_for_what_fairseq_asks_for(tmp_path, golden):
    export(load_teacher(golden), "fairseq", tmp_path)
    written, original = pickled_names(tmp_path / "hubert.pt"), pickled_names(golden)
    # omegaconf, and the builtins that its objects are made of, are in one golden file and not in the other.
    assert written <= original
    assert written == pickled_names(GOLDEN / "hubert_large_fairseq.pt")


def test_the_dictionary_is_that_of_fairseq(tmp_path, golden):
    export(load_teacher(golden), "fairseq", tmp_path)
    (theirs,) = safe_pickle.load(golden)["task_state"]["dictionaries"]
    (ours,) = safe_pickle.load(tmp_path / "hubert.pt")["task_state"]["dictionaries"]
    assert ours.name == theirs.name and ours.state == theirs.state
    assert "fairseq.data.dictionary" not in sys.modules


@pytest.mark.parametrize("untied", [True, False])
def test_entries_that_only_the_source_knows(tmp_path, untied):
    """Of another training than HuBERT's own, in both layouts with sections; a flat `args` has none."""
    contents = safe_pickle.load(GOLDEN / "hubert_large_fairseq.pt")
    cfg, model = safe_pickle.plain(contents["cfg"]), dict(contents["model"])
    cfg["model"] |= {"mask_prob": 0.65, "mask_length": 4, "untie_final_proj": untied, "label_rate": 100.0}
    cfg["model"]["unreadable"] = "<numpy.dtype>"
    cfg["criterion"] = {"_name": "hubert", "pred_nomask_weight": 0.5, "loss_weights": [3.0]}
    conversion = {"task_cfg": cfg["task"], "model_cfg": cfg["model"], "model_weight": model}
    flat = argparse.Namespace(arch="hubert", normalize=True, **cfg["model"])
    for layout in ({"cfg": cfg, "model": model}, conversion, {"args": flat, "model": model}):
        torch.save(layout, tmp_path / "source.pt")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        export_checkpoint(tmp_path / "source.pt", "fairseq", tmp_path / "out")
        written = safe_pickle.load(tmp_path / "out" / "hubert.pt")["cfg"]
        assert "unreadable" not in written["model"]
        if "args" in layout:
            assert (written["model"]["mask_prob"], written["model"]["mask_length"]) == (0.8, 10)
            continue
        expected = {key: value for key, value in cfg["model"].items() if key != "unreadable"}
        assert written["model"] == expected
        if "cfg" in layout:
            assert written["criterion"] == cfg["criterion"] | {"pred_masked_weight": 1.0}


@torch.no_grad()
def test_round_trip(tmp_path, golden):
    first = load_teacher(golden)
    export(first, "fairseq", tmp_path / "a.pt", provenance={"num_updates": 7, "made": "by a test"})
    again = load_teacher(tmp_path / "a.pt")
    assert again.config == first.config
    for name, weight in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    heads = fairseq.read_head(golden), fairseq.read_head(tmp_path / "a.pt")
    assert heads[0] and heads[1]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    provenance = inspect(tmp_path / "a.pt").provenance
    assert (provenance["num_updates"], provenance["made"]) == (7, "by a test")


def test_labels_in_another_order_and_two_sets_of_them(tmp_path):
    """Which row stands for which cluster is the dictionary's to say."""
    golden = safe_pickle.load(GOLDEN / "hubert_base_fairseq.pt")
    (state,) = (entry.state for entry in golden["task_state"]["dictionaries"])
    backwards = state["symbols"][:4] + state["symbols"][:3:-1]
    teacher = load_teacher(GOLDEN / "hubert_base_fairseq.pt")
    other = state | {"symbols": backwards, "count": list(range(24))}
    for dictionaries in ((other,), (other, state)):
        n_sets = len(dictionaries)
        weights = teacher.pretraining_head.weights | {
            "label_embs_concat": torch.randn(24 * n_sets, 32),
            "final_proj.weight": torch.randn(32 * n_sets, 64),
            "final_proj.bias": torch.randn(32 * n_sets),
        }
        teacher.pretraining_head = fairseq.Head(weights, dictionaries)
        again = load_teacher(export(teacher, "fairseq", tmp_path))
        assert again.pretraining_head.dictionaries == dictionaries
        model = safe_pickle.load(tmp_path / "hubert.pt")["cfg"]["model"]
        assert (model["final_dim"], model["untie_final_proj"]) == (32, True)


def test_the_head_of_an_adapted_teacher(tmp_path):
    """`distill adapt` leaves it beside its teacher, under fairseq's names."""
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini", layers=2).eval()
    head = {"mask_emb": torch.randn(128), "final_proj.weight": torch.randn(16, 128)}
    head |= {"final_proj.bias": torch.randn(16), "label_embs_concat": torch.randn(24, 16)}
    native.write(teacher, tmp_path)
    save_file(head, tmp_path / "head.safetensors")
    for name, source in {"folder": tmp_path, "file": tmp_path / "teacher.safetensors"}.items():
        export_checkpoint(source, "fairseq", tmp_path / name)
        written = fairseq.read_head(tmp_path / name / "hubert.pt")
        assert written and all(torch.equal(written[name], head[name]) for name in head)


ADAPTED = {"model": {"mask_prob": 0.4, "mask_length": 4}, "criterion": {"pred_nomask_weight": 1.0}}
HUBERTS = {"model": {"mask_prob": 0.8, "mask_length": 10}, "criterion": {"pred_nomask_weight": 0.0}}


@pytest.mark.parametrize("source", ["release", "Lightning", "nothing known"])
def test_the_training_of_an_adapted_teacher(tmp_path, source):
    """A release has it in its run's recipe, a Lightning checkpoint in its provenance."""
    teacher = HubertEncoder.from_preset("mini", layers=1).eval()
    recipe = AdaptRecipe(masking=MaskingConfig(probability=0.4, length=4, unmasked_weight=1.0))
    recipe.masking.feature_penalty = 2.0
    native.write(teacher, tmp_path, {"recipe": "t1_prime", "step": 1500})
    path, expected = tmp_path, ADAPTED
    if source == "release":
        (tmp_path / "recipe.yaml").write_text(to_yaml(recipe))
    elif source == "Lightning":
        path = tmp_path / "last.ckpt"
        provenance = {"step": 1500, "mask_probability": 0.4, "mask_length": 4, "temperature": 0.2}
        provenance |= {"unmasked_weight": 1.0, "feature_penalty": 2.0}
        architecture = teacher.config.to_dict()
        torch.save(
            {
                "pytorch-lightning_version": "2",
                "state_dict": {f"encoder.{name}": weight for name, weight in teacher.state_dict().items()},
                "distill": {"kind": "teacher", "architecture": architecture, "provenance": provenance},
            },
            path,
        )
    else:
        expected = HUBERTS
    written = safe_pickle.load(export_checkpoint(path, "fairseq", tmp_path / "out"))
    for section, values in expected.items():
        assert written["cfg"][section].items() >= values.items()
    assert written["cfg"]["criterion"].get("loss_weights") == (None if expected is HUBERTS else [2.0])
    assert written["cfg"]["model"]["logit_temp"] == (0.2 if source == "Lightning" else 0.1)
    assert written["optimizer_history"][-1]["num_updates"] == 1500
    again = safe_pickle.load(export_checkpoint(tmp_path / "out", "fairseq", tmp_path / "again"))
    assert again["optimizer_history"] == written["optimizer_history"]


def test_a_model_without_head(tmp_path):
    """What other formats hold: enough for features and fine-tuning, where fairseq drops the labels."""
    torch.manual_seed(0)
    teacher = HubertEncoder.from_preset("mini", layers=2).eval()
    export(teacher, "fairseq", tmp_path)
    written = safe_pickle.load(tmp_path / "hubert.pt")
    assert written["task_state"] == {"dictionaries": [None]}
    assert "label_embs_concat" not in written["model"] and written["model"]["mask_emb"].shape == (128,)
    assert written["model"]["final_proj.weight"].shape == (256, 128)
    again = load_teacher(tmp_path)
    assert again.config == teacher.config and again.pretraining_head is None
    for name, weight in teacher.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_where_fairseq_has_no_projection(tmp_path):
    layers = tuple(
        (32, kernel, stride) for _, kernel, stride in HubertEncoder.from_preset("mini").config.conv_layers
    )
    teacher = HubertEncoder.from_preset("mini", conv_layers=layers, dim=32, ffn_dim=32, layers=1).eval()
    with pytest.raises(CheckpointError, match=r"fairseq cannot hold this model: .* equally wide \(32\)"):
        export(teacher, "fairseq", tmp_path / "out")
    with torch.no_grad():
        teacher.projection.weight.copy_(torch.eye(32))
        teacher.projection.bias.zero_()
    export(teacher, "fairseq", tmp_path)
    assert "post_extract_proj.weight" not in safe_pickle.load(tmp_path / "hubert.pt")["model"]
    assert torch.equal(load_teacher(tmp_path).projection.weight, torch.eye(32))


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            ((512, 10, 5),) + ((512, 3, 2),) * 4 + ((512, 2, 2),) * 2,
            "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
        ),
        (((8, 10, 5), (16, 3, 2)), "[(8,10,5)] + [(16,3,2)]"),
    ],
)
def test_convolutions_as_an_expression(layers, text):
    config = HubertEncoder.from_preset("mini", conv_layers=layers).config
    assert fairseq_writing.conv_expression(config) == text
    assert tuple(eval(text)) == layers


@pytest.mark.parametrize("with_head", [True, False])
@torch.no_grad()
def test_fairseqs_own_model_loads_it(tmp_path, golden, with_head):
    """s3prl carries a copy of fairseq's HuBERT: built from our configuration, it takes every weight."""
    hubert = pytest.importorskip("s3prl.upstream.hubert.hubert_model")
    utils = pytest.importorskip("s3prl.upstream.utils")
    teacher = load_teacher(golden)
    if not with_head:
        teacher.pretraining_head = None
    export(teacher, "fairseq", tmp_path)
    written = safe_pickle.load(tmp_path / "hubert.pt")
    (labels,) = written["task_state"]["dictionaries"]
    task = utils.merge_with_parent(hubert.HubertPretrainingConfig, written["cfg"]["task"])
    config = utils.merge_with_parent(hubert.HubertConfig, written["cfg"]["model"])
    theirs = hubert.HubertModel(config, task, [labels.state["symbols"] if labels else None]).eval()
    theirs.load_state_dict(written["model"])
    assert task.normalize == teacher.config.normalize_input
    waves = normalize_waveforms(torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)), None)
    features, _ = theirs.extract_features(waves)
    torch.testing.assert_close(teacher(waves).last_hidden_state, features, rtol=0, atol=1e-5)
