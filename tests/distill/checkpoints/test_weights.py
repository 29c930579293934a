"""Weights: NaN, quantised ones, names of wrappers; in every format."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.adaptation.heads import read_head
from distill.checkpoints import inspect, load_student, load_teacher
from distill.checkpoints.loading import load_any
from distill.errors import CheckpointError
from distill.student import Student
from tests.distill.checkpoints.small_models import FORMATS, change_weights, made, of_layer

FFN_IN = ("fc1.weight", "ffn_in.weight", "intermediate_dense.weight")


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
