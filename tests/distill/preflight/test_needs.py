"""Estimates against what autograd keeps and torch saves."""

import io
from pathlib import Path

import pytest
import torch

from distill import Student
from distill.config import load
from distill.hubert import PRESETS, HubertEncoder
from distill.objective import distillation_loss
from distill.optim import OptimConfig, adamw
from distill.options import DataConfig, HeadsConfig, SpiralRecipe
from distill.preflight.needs import activation_bytes, estimate
from distill.spiral.encoder import PRESETS as SPIRALS
from distill.spiral.encoder import SpiralEncoder
from distill.training.devices import Layout
from tests.distill.preflight.reports import mini


@pytest.mark.parametrize(
    ("preset", "targets", "changes"),
    [
        ("mini", (2, 4, 6), {}),
        ("mini", (2, 4, 6), {"reuse_attention": True}),
        ("mini", (2, 4, 6), {"front": "slim"}),
        ("base", (4, 8, 12), {}),
        ("large", (8,), {}),
        ("wavlm_mini", (2, 4, 6), {}),
    ],
)
def test_the_estimate_of_activations_against_what_autograd_keeps(preset, targets, changes):
    teacher = HubertEncoder.from_preset(preset, layers=max(targets))
    student = Student.from_teacher(teacher, layers=2, targets=targets, **changes)
    weights = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = student(torch.randn(2, 24_000), torch.tensor([24_000, 20_000]))
        goal = torch.randn_like(out.predictions)
        distillation_loss(out.predictions, goal, out.lengths, cosine_weight=1.0)
    total = sum(
        tensor.untyped_storage().nbytes()
        for tensor in kept.values()
        if tensor.shape[:1] != (student.encoder.config.dim,)  # the positional kernel: not an activation
    )
    estimated = activation_bytes(student.encoder.config, 48_000, heads=len(targets), longest=24_000)
    assert estimated == pytest.approx(total, rel=0.2)


def test_the_estimate_of_checkpoints_against_a_real_one():
    recipe = mini(Path("nowhere"))
    teacher = HubertEncoder.from_preset("mini")
    student = Student.from_teacher(teacher, layers=2, targets=(2, 4, 6))
    optimizer = adamw(student.parameters(), OptimConfig())
    for parameter in student.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    file = io.BytesIO()
    torch.save([student.state_dict(), optimizer.state_dict()], file)
    release = sum(parameter.numel() for parameter in student.parameters()) * 4
    needs = estimate(recipe, PRESETS["mini"], Layout(processes=1, nodes=1, gpu=False))
    assert needs.disk - 100_000_000 == pytest.approx(2 * file.tell() + release, rel=0.05)


def test_what_makes_a_run_smaller():
    one = Layout(processes=1, nodes=1, gpu=True)
    teacher = PRESETS["base"]

    def gpu(*overrides: str, layout: Layout = one) -> int:
        return estimate(load("s4", list(overrides)), teacher, layout).device

    whole = gpu()
    assert 10e9 < whole < 40e9  # 24 utterances of 15.6 s in float32
    assert gpu("optim.accumulate=2") < 0.6 * whole
    assert gpu("trainer.precision=bf16-mixed") < 0.8 * whole
    assert gpu("student.activation_checkpointing=true") < whole
    assert gpu(layout=Layout(processes=4, nodes=2, gpu=True)) < 0.25 * whole
    assert gpu("data.batch_seconds=187.5") == pytest.approx(gpu("data.batch_size=12"), rel=1e-6)


@pytest.mark.parametrize(("preset", "layers"), [("mini", 1), ("mini", 4), ("base", 2)])
def test_the_estimate_of_spirals_activations_against_what_autograd_keeps(preset, layers):
    encoder = SpiralEncoder.from_preset(preset, layers=layers, block1_layers=1, layerdrop=0.0)
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder(torch.randn(2, 32_000), torch.tensor([32_000, 20_000])).last_hidden_state.sum()
    config = encoder.config
    total = sum(
        tensor.untyped_storage().nbytes()
        for tensor in kept.values()
        if tensor.shape[0] == 2 or tensor.dim() < 3  # positional kernels are not activations
    )
    assert activation_bytes(config, 64_000) == pytest.approx(total, rel=0.2)


def test_the_parameters_of_a_spiral_and_its_heads():
    one = Layout(processes=1, nodes=1, gpu=True)
    recipe = SpiralRecipe(name="x", data=DataConfig(train=["a"], dev=["a"]))
    needs = estimate(recipe, SPIRALS["base"], one)
    assert needs.disk - 100_000_000 == 7 * 4 * 91_536_256
    assert 4e9 < needs.device < 40e9
    recipe = SpiralRecipe(name="x", heads=HeadsConfig(predictor="none"))
    assert estimate(recipe, SPIRALS["base"], one).disk < needs.disk
