"""What a file says about its model and what its weights say, in every format; NaN; wrappers' names."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.adaptation.heads import read_head
from distill.checkpoints import export, fairseq, inspect, load_student, load_teacher, safe_pickle
from distill.checkpoints.loading import load_any
from distill.errors import CheckpointError
from distill.hubert import HubertEncoder
from distill.student import Student

CONVS = ((8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2))
SMALL = {"dim": 16, "ffn_dim": 24, "heads": 2, "layers": 3, "position_groups": 2, "position_kernel": 4}
FFN_IN = ("fc1.weight", "ffn_in.weight", "intermediate_dense.weight")
FORMATS = ("huggingface", "fairseq", "torchaudio", "s3prl", "native")


def made(format: str, folder: Path) -> Path:
    """A small model in a format: a student where the format is for students, else a teacher."""
    torch.manual_seed(0)
    model: Any = HubertEncoder.from_preset("mini", conv_layers=CONVS, **SMALL).eval()
    if format == "s3prl":
        model = Student.from_teacher(model, layers=3, targets=(1, 3)).eval()
    return export(model, format, folder)


def write_again(contents: dict, path: Path) -> None:
    """Beside the file and then in its place: what was loaded from it is still mapped."""
    torch.save(contents, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def change_weights(format: str, path: Path, change: Callable[[dict], dict]) -> None:
    """Write the weights of an exported file again, changed."""
    if format in ("huggingface", "native"):
        file = path / "model.safetensors" if path.is_dir() else path
        save_file({key: value.clone() for key, value in change(load_file(file)).items()}, file)
        return
    contents = safe_pickle.load(path)
    contents.pop("task_state", None)
    name = {"fairseq": "model", "s3prl": "Distiller"}.get(format)
    write_again(contents | {name: change(dict(contents[name]))} if name else change(contents), path)


def change_description(format: str, path: Path, changes: dict[str, Any]) -> None:
    """Change what an exported file says about its model, in the format's own words."""
    if format in ("fairseq", "s3prl"):
        contents = safe_pickle.load(path)
        contents.pop("task_state", None)
        described = contents["cfg"]["model"] if format == "fairseq" else contents["Config"]["distiller"]
        described.update(changes)
        write_again(contents, path)
        return
    file = path / "config.json" if path.is_dir() else path.with_suffix(".json")
    values = json.loads(file.read_text())
    inner = {"native": "architecture", "torchaudio": "wav2vec2_model"}.get(format)
    (values[inner] if inner else values).update(changes)
    file.write_text(json.dumps(values))


_FAIRSEQ = {
    "encoder_layers": (2, 4),
    "encoder_embed_dim": (32,),
    "encoder_ffn_embed_dim": (48,),
    "conv_pos": (8,),
    "conv_pos_groups": (4,),
    "extractor_mode": ("layer_norm",),
}
_OTHER_CONVS = "[(8,10,5)] + [(8,3,2)] * 3 + [(8,4,2)] + [(8,2,2)] * 2"
LIES = {
    "huggingface": {
        **{"num_hidden_layers": (2, 4), "hidden_size": (32,), "intermediate_size": (48,)},
        **{"conv_dim": ([8] * 6 + [16],), "conv_kernel": ([10, 3, 3, 3, 3, 3, 2],), "conv_bias": (True,)},
        **{"num_feat_extract_layers": (6, 8), "conv_stride": ([5, 2, 2, 2, 2, 2],)},
        **{"num_conv_pos_embeddings": (8,), "num_conv_pos_embedding_groups": (4,)},
        **{"feat_extract_norm": ("layer",), "feat_proj_layer_norm": (False,), "num_attention_heads": (3,)},
    },
    "fairseq": _FAIRSEQ | {"conv_feature_layers": (_OTHER_CONVS,), "conv_bias": (True,)},
    "torchaudio": {
        **{"encoder_num_layers": (2, 4), "encoder_embed_dim": (32,), "encoder_ff_interm_features": (48,)},
        **{"extractor_conv_layer_config": ([*CONVS[:-1], (8, 3, 2)], CONVS[:-1], "8")},
        **{"extractor_conv_bias": (True,)},
        **{"encoder_pos_conv_kernel": (8,), "encoder_pos_conv_groups": (4,)},
        **{"extractor_mode": ("layer_norm",)},
    },
    "s3prl": _FAIRSEQ
    | {"extractor_conv_feature_layers": (_OTHER_CONVS,), "n_tasks": (3,)}
    | {"final_dim": (32,), "pred_layer_id": ([1],)},
    "native": {
        **{"layers": (2, 4), "dim": (32,), "ffn_dim": (48,), "conv_layers": (CONVS[:-1],)},
        **{"position_kernel": (8,), "position_groups": (4,), "conv_norm": ("layer",)},
        **{"conv_bias": (True,), "projection_norm": (False,)},
    },
}  # fmt: skip
CASES = [
    (format, key, lie) for format, lies in LIES.items() for key, values in lies.items() for lie in values
]


@pytest.mark.parametrize(("format", "key", "lie"), CASES)
def test_what_the_description_and_the_weights_both_say(tmp_path, format, key, lie):
    path = made(format, tmp_path)
    assert load_any(path)
    change_description(format, path, {key: lie})
    with pytest.raises(CheckpointError) as error:
        load_any(path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    named = (
        "does not fit its architecture",
        "but holds",
        "strides are known",
        "impossible model",
        f"{key} is",
    )
    assert any(words in str(error.value) for words in named)


def of_layer(number: int, state: dict) -> list[str]:
    """The names of a transformer layer's weights, not of a convolution's."""
    return [key for key in state if f"layers.{number}." in key and "conv" not in key]


@pytest.mark.parametrize("format", FORMATS)
def test_layers_that_are_missing_or_surplus(tmp_path, format):
    def without_the_last(state: dict) -> dict:
        lost = of_layer(2, state)
        return {key: value for key, value in state.items() if key not in lost}

    def with_one_more(state: dict) -> dict:
        return state | {key.replace("layers.2.", "layers.3."): state[key] for key in of_layer(2, state)}

    for change, found in ((without_the_last, 2), (with_one_more, 4)):
        path = made(format, tmp_path / str(found))
        change_weights(format, path, change)
        with pytest.raises(
            CheckpointError, match=rf"3 in .* but {found} by the weights|3 layers but holds {found}"
        ):
            load_any(path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path, format, value):
    path = made(format, tmp_path)

    def broken(state: dict) -> dict:
        (key,) = (key for key in of_layer(1, state) if key.endswith(FFN_IN))
        changed = state[key].clone()
        changed[3, 5] = value
        return state | {key: changed}

    change_weights(format, path, broken)
    for read in (load_any, inspect):
        with pytest.raises(CheckpointError, match=r"NaN or infinite: \S*layers\.1\.ffn_in\.weight;"):
            read(path)


QUANTISED = [
    *((format, torch.int8) for format in FORMATS),
    *(("native", dtype) for dtype in (torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn)),
]


@pytest.mark.parametrize(("format", "dtype"), QUANTISED)
def test_quantised_weights_are_not_read_as_numbers(tmp_path, format, dtype):
    path = made(format, tmp_path)

    def quantised(state: dict) -> dict:
        (key,) = (key for key in of_layer(1, state) if key.endswith(FFN_IN))
        return state | {key: (100 * state[key]).to(dtype)}

    change_weights(format, path, quantised)
    for read in (load_any, inspect):
        with pytest.raises(
            CheckpointError, match=r"holds quantised weights, .*: \S*ffn_in\.weight is \w+8?;"
        ):
            read(path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_weights_are_read(tmp_path, dtype):
    path = made("native", tmp_path)
    change_weights("native", path, lambda state: {key: value.to(dtype) for key, value in state.items()})
    assert {weight.dtype for weight in load_teacher(path).state_dict().values()} == {torch.float32}


def test_heads_that_are_not_finite(tmp_path):
    path = made("native", tmp_path)
    save_file({"mask_emb": torch.tensor([0.0, float("nan")])}, tmp_path / "head.safetensors")
    for read in (load_teacher, read_head):
        with pytest.raises(CheckpointError, match=r"head\.safetensors holds .* infinite: mask_emb"):
            read(path)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "wrapper", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}"]
)
def test_names_of_wrappers(tmp_path, format, wrapper):
    path = made(format, tmp_path)
    before = load_any(path)[0].state_dict()
    change_weights(format, path, lambda state: {wrapper.format(key): value for key, value in state.items()})
    after = load_any(path)[0].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_wrappers_inside_and_twice(tmp_path):
    path = made("native", tmp_path)
    before = load_file(path)
    inner = {key.replace("layers.1.", "layers.1._orig_mod."): value for key, value in before.items()}
    save_file(inner, path)
    assert all(torch.equal(before[key], value) for key, value in load_teacher(path).state_dict().items())
    save_file(before | {"_orig_mod.norm.weight": before["norm.weight"].clone()}, path)
    with pytest.raises(CheckpointError, match=r"holds norm\.weight twice"):
        load_teacher(path)


def test_lightning_checkpoints_of_compiled_models(tmp_path):
    teacher = load_teacher(made("native", tmp_path))
    student = Student.from_teacher(teacher, layers=1, targets=(1,))
    weights = {f"student._orig_mod.{name}": value for name, value in student.state_dict().items()}
    described = {"kind": "student", "architecture": student.to_dict()}
    torch.save(
        {"pytorch-lightning_version": "2", "state_dict": weights, "distill": described}, tmp_path / "x.ckpt"
    )
    assert torch.equal(load_student(tmp_path / "x.ckpt").heads.weight, student.heads.weight)


def test_strides_that_nobody_states(tmp_path):
    """The published ones go with the published kernels alone: others would be another frame rate."""
    torch.manual_seed(0)
    odd = HubertEncoder.from_preset("mini", conv_layers=((8, 10, 5), *[(8, 4, 2)] * 6), **SMALL)
    path = export(odd, "huggingface", tmp_path)
    assert load_teacher(path).config.conv_layers == odd.config.conv_layers
    described = json.loads((path / "config.json").read_text())
    del described["conv_stride"]
    (path / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match="does not state the strides .* the frame rate is unknown"):
        load_teacher(path)
    path = export(odd, "torchaudio", tmp_path / "torchaudio.pt")
    assert load_teacher(path).config.conv_layers == odd.config.conv_layers


def test_harmless_values_of_training_programs(tmp_path):
    path = made("fairseq", tmp_path)
    contents = safe_pickle.load(path)
    contents.pop("task_state")
    contents["extra_state"] |= {
        "counts": Counter("hubert"),
        "when": datetime(2021, 6, 14, tzinfo=UTC),
        "loss": Decimal("1.5"),
        "space": SimpleNamespace(a=1),
    }
    write_again(contents, path)
    assert inspect(path).format == "fairseq"
    extra = safe_pickle.load(path)["extra_state"]
    assert all(isinstance(extra[name], safe_pickle.StandIn) for name in ("counts", "when", "loss", "space"))
    assert safe_pickle.plain(extra["counts"]) == dict(Counter("hubert"))


@pytest.mark.parametrize(
    "text",
    [
        "[(8,10,5)] + 4*[(8,3,2)] + 2 * [(8,2,2)]",
        "[(8,10,5)] + [(8,3,2)] * 2 + 2*[(8,3,2)] + [(8,2,2)] + [(8,2,2)]",
        "[(8,10,5)] + 2*([(8,3,2)] + [(8,3,2)]) + [(8,2,2)] * 2",
    ],
)
def test_ways_to_write_convolutions(text):
    assert fairseq.parse_layers(text, "x.pt") == list(CONVS)


@pytest.mark.parametrize(
    "text", ["1000*[(8,3,2)]", "2*3", "[(8,3)]", "2*(1,2,3)", "__import__('os')", "-1*[(8,3,2)]"]
)
def test_what_is_no_list_of_convolutions(text):
    with pytest.raises(CheckpointError, match="conv_feature_layers is"):
        fairseq.parse_layers(text, "x.pt")
