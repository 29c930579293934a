"""Estimates against what autograd keeps and torch saves."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from distill import Student
from distill.batch import Batch
from distill.config import load
from distill.hubert import PRESETS, HubertEncoder
from distill.objective import ObjectiveConfig, Seen, Terms, distillation_loss
from distill.objective.options import CorrelationConfig, EnhancementConfig, RelationsConfig, UnitsConfig
from distill.optim import OptimConfig, adamw
from distill.options import DataConfig, HeadsConfig, SpiralRecipe
from distill.preflight.needs import activation_bytes, estimate, terms_bytes
from distill.spiral.encoder import PRESETS as SPIRALS
from distill.spiral.encoder import SpiralEncoder
from distill.training.devices import Layout
from tests.distill.preflight.reports import mini


def kept_for_backward(known: Iterable[torch.Tensor], forward: Callable[[], object]) -> list[torch.Tensor]:
    """What autograd keeps of a forward pass beside these tensors."""
    there = {tensor.untyped_storage().data_ptr() for tensor in known}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in there:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return list(kept.values())


@pytest.mark.parametrize(
    ("preset", "targets", "changes"),
    [
        ("mini", (2, 4, 6), {}),
        ("mini", (2, 4, 6), {"reuse_attention": True}),
        ("mini", (2, 4, 6), {"front": "slim"}),
        ("mini", (2, 4, 6), {"front": "mel", "attention_dropout": 0.0}),
        ("base", (4, 8, 12), {}),
        ("large", (8,), {}),
        ("wavlm_mini", (2, 4, 6), {}),
    ],
)
def test_the_estimate_of_activations_against_what_autograd_keeps(preset, targets, changes):
    teacher = HubertEncoder.from_preset(preset, layers=max(targets))
    student = Student.from_teacher(teacher, layers=2, targets=targets, **changes)

    def forward() -> None:
        out = student(torch.randn(2, 24_000), torch.tensor([24_000, 20_000]))
        goal = torch.randn_like(out.predictions)
        distillation_loss(out.predictions, goal, out.lengths, cosine_weight=1.0)

    total = sum(
        tensor.untyped_storage().nbytes()
        for tensor in kept_for_backward(student.parameters(), forward)
        if tensor.shape[:1] != (student.encoder.config.dim,)  # the positional kernel: not an activation
    )
    estimated = activation_bytes(student.encoder.config, 48_000, heads=len(targets), longest=24_000)
    assert estimated == pytest.approx(total, rel=0.2)


TERMS = {
    "input": {"input": 1.0},
    "correlation": {"correlation": CorrelationConfig(weight=1.0)},
    "relations": {"relations": RelationsConfig(weight=1.0)},
    "units": {"units": UnitsConfig(weight=1.0, codebook="x")},
    "enhancement": {"enhancement": EnhancementConfig(weight=1.0)},
    "smaller head": {"enhancement": EnhancementConfig(weight=1.0, dim=32, layers=1)},
}


@pytest.mark.parametrize("name", TERMS)
def test_the_estimate_of_a_term_against_what_autograd_keeps(name):
    teacher = HubertEncoder.from_preset("mini")
    student = Student.from_teacher(teacher, layers=2, targets=(2, 4, 6))
    options = ObjectiveConfig(**TERMS[name])
    terms = Terms(options, 1.0, student.encoder.config, teacher.config, codebook=torch.randn(100, 128))
    waves, lengths = torch.randn(2, 80_000), torch.tensor([80_000, 80_000])
    batch = Batch(["a", "b"], waves, lengths)
    features = [layer.detach() for layer in teacher(waves, lengths).features]
    asked = terms.asks(batch)
    out = student(waves, lengths, **asked)
    targets = torch.stack([features[layer] for layer in student.targets], dim=1)
    seen = Seen(out, targets, features, batch, waves, torch.zeros(2, dtype=torch.bool), asked)
    known = [*terms.parameters(), *terms.buffers(), *out.hidden_states, out.predictions, out.z]
    kept = kept_for_backward([*known, *features, targets], lambda: terms(torch.zeros(()), seen, 498.0))
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept)
    assert terms_bytes(terms, student, 160_000, 80_000) == pytest.approx(total, rel=0.2)


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
    assert gpu("objective.enhancement.weight=1") > whole + 4 * 4 * 5_400_000
    assert gpu("objective.relations.weight=1") > whole + 5 * 58_000_000
    assert gpu("data.batch_seconds=187.5") == pytest.approx(gpu("data.batch_size=12"), rel=1e-6)


@pytest.mark.parametrize(("preset", "layers"), [("mini", 1), ("mini", 4), ("base", 2)])
def test_the_estimate_of_spirals_activations_against_what_autograd_keeps(preset, layers):
    encoder = SpiralEncoder.from_preset(preset, layers=layers, block1_layers=1, layerdrop=0.0)

    def forward() -> None:
        encoder(torch.randn(2, 32_000), torch.tensor([32_000, 20_000]))

    config = encoder.config
    total = sum(
        tensor.untyped_storage().nbytes()
        for tensor in kept_for_backward(encoder.parameters(), forward)
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
