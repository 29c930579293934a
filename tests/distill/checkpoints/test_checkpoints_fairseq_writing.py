"""What we write as fairseq, against files that real fairseq wrote."""

import pickletools
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
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder, normalize_waveforms

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(params=["base", "large"])
def golden(request) -> Path:
    return GOLDEN / f"hubert_{request.param}_fairseq.pt"


def pickled_names(path: Path) -> set[str]:
    """Every class and function that the pickle asks for."""
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return {str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}


def test_keys_shapes_and_bits_are_those_of_fairseq(tmp_path, golden):
    teacher = load_teacher(golden)
    assert export(teacher, "fairseq", tmp_path) == tmp_path / "hubert.pt"
    original, ours = safe_pickle.load(golden), safe_pickle.load(tmp_path / "hubert.pt")
    assert list(ours) == list(original)
    assert ours["model"].keys() == original["model"].keys()
    for key, tensor in original["model"].items():
        assert torch.equal(ours["model"][key], tensor) and ours["model"][key].dtype == tensor.dtype, key
    theirs, described = safe_pickle.plain(original["cfg"]), ours["cfg"]
    for section in ("model", "task", "criterion"):
        different = {key for key, value in described[section].items() if theirs[section].get(key) != value}
        assert different <= {"data", "untie_final_proj"}  # with one set of labels, both are the same


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
    for source in (tmp_path, tmp_path / "teacher.safetensors"):
        export_checkpoint(source, "fairseq", tmp_path / "out")
        written = fairseq.read_head(tmp_path / "out" / "hubert.pt")
        assert written and all(torch.equal(written[name], head[name]) for name in head)


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
