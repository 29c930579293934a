"""Projection and predictor against the reference's numbers, torch's batch norm, and two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill.spiral.heads import Predictor, Projection, ValidBatchNorm
from tests.distill.spiral.heads_worker import Heads, learn
from tests.paths import GOLDEN

STORED = torch.load(GOLDEN / "spiral" / "encoder.pt", weights_only=True)
LENGTHS = STORED["out_lengths"]
VALID = torch.arange(14) < LENGTHS[:, None]


def golden_heads() -> tuple[Projection, Predictor]:
    """The reference's heads, in eval mode."""
    state = STORED["state"]
    width = STORED["config"]["projection"]
    projection, predictor = Projection(STORED["encoder_out"].shape[1], width), Predictor(width)
    projection.load_state_dict(
        {f"linear.{x}": state[f"projector.output_proj.{x}"] for x in ("weight", "bias")}
    )
    renamed = {
        name.replace("predictor.", "")
        .replace("conv_layers", "convolutions")
        .replace("conv.conv", "conv")
        .replace("output_proj", "linear"): value
        for name, value in state.items()
        if name.startswith("predictor.")
    }
    predictor.load_state_dict(renamed)
    return projection.eval(), predictor.eval()


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within 2e-5 of the largest."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("padding", [0.0, 1e3])
def test_the_reference_in_eval_mode(padding):
    projection, predictor = golden_heads()
    x = STORED["encoder_out"].transpose(1, 2).masked_fill(~VALID[..., None], padding)
    projected = projection(x, LENGTHS)
    assert_near(projected[VALID], STORED["projected"][VALID])
    assert_near(predictor(projected, LENGTHS)[VALID], STORED["predicted"][VALID])


def test_the_reference_in_training_mode_once_every_frame_counts(monkeypatch):
    """Its statistics are over all frames of the padded array, though its convolutions hear zeros there."""
    statistics = ValidBatchNorm._statistics
    monkeypatch.setattr(
        ValidBatchNorm, "_statistics", lambda self, x, valid: statistics(self, x, torch.ones_like(valid))
    )
    predictor = golden_heads()[1].train()
    predicted = predictor(STORED["projected"], LENGTHS)
    assert_near(predicted, STORED["predicted_train"])
    for index, layer in enumerate(predictor.convolutions):
        for name, value in layer.get_submodule("norm").named_buffers():
            expected = STORED["batch_norm_after_train"][f"predictor.conv_layers.{index}.norm.{name}"]
            assert_near(value.double(), expected.double())


def test_sizes():
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert [count(Projection(768, 256)), count(Projection(1024, 512))] == [196_864, 524_800]
    assert [count(Predictor(256)), count(Predictor(512))] == [722_176, 2_886_144]
    # Convolution with bias, layer norm, linear layer.
    assert count(Projection(768, 256, kind="convolution")) == 768 * 256 * 5 + 256 + 512 + 256 * 257


def test_batch_norm_of_full_batches_is_torchs():
    ours, theirs = ValidBatchNorm(4), nn.BatchNorm1d(4, momentum=0.01, eps=1e-3)
    theirs.load_state_dict(ours.state_dict())
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        x = (torch.randn(2, 9, 4, generator=generator) * 3 + 100).requires_grad_()
        weight = torch.randn(2, 9, 4, generator=generator)
        found = ours(x, torch.ones(2, 9, dtype=torch.bool))
        expected = theirs(x.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        (gradient,) = torch.autograd.grad((found * weight).sum(), x)
        (theirs_gradient,) = torch.autograd.grad((expected * weight).sum(), x)
        torch.testing.assert_close(gradient, theirs_gradient, rtol=1e-4, atol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(
        ours.eval()(x, torch.ones(2, 9, dtype=torch.bool)), theirs.eval()(x.transpose(1, 2)).transpose(1, 2)
    )


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_padding_changes_nothing(norm):
    """Neither its length nor what is in it: not the output, the gradients or the running statistics."""
    lengths = torch.tensor([9, 4, 1])
    x = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(0))

    def run(x: torch.Tensor) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        predictor = Predictor(6, norm=norm)
        valid = (torch.arange(x.shape[1]) < lengths[:, None])[..., None]
        out = predictor(x, lengths)[:, :9].masked_fill(~valid[:, :9], 0.0)
        out.square().sum().backward()
        gradients = {
            f"gradient of {n}": p.grad for n, p in predictor.named_parameters() if p.grad is not None
        }
        return {**predictor.state_dict(), **gradients, "out": out.detach()}

    spoilt = F.pad(x, (0, 0, 0, 5))
    for row, n in enumerate(lengths.tolist()):
        spoilt[row, n:] = float("nan")
    found, expected = run(spoilt), run(x)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_statistics_survive_a_batch_that_is_not_finite_and_one_without_frames():
    norm = ValidBatchNorm(2)
    x = torch.randn(1, 4, 2)
    x[0, 1, 0] = torch.nan
    norm(x, torch.ones(1, 4, dtype=torch.bool))
    assert norm.running_mean[0] == 0 and norm.running_var[0] == 1 and norm.running_mean[1] != 0
    norm(torch.randn(1, 4, 2), torch.zeros(1, 4, dtype=torch.bool))
    assert norm.running_mean.isfinite().all() and norm.running_var.isfinite().all()


def test_half_precision_is_normalised_in_single():
    predictor = Predictor(6)
    x, lengths = torch.randn(2, 9, 6), torch.tensor([9, 5])
    expected = predictor(x, lengths)
    with torch.autocast("cpu", torch.bfloat16):
        assert predictor.convolutions[0](x, torch.arange(9) < lengths[:, None]).dtype == torch.float32
        found = predictor(x, lengths)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="kind must be linear or convolution"):
        Projection(4, 4, kind="conv")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="norm must be batch, layer or none"):
        Predictor(4, norm="bn")  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path):
    worker = str(Path(__file__).with_name("heads_worker.py"))
    running = [
        subprocess.Popen([sys.executable, worker, str(tmp_path), rank], stderr=subprocess.PIPE, text=True)
        for rank in "01"
    ]
    for process in running:
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = learn(Heads(), range(5), 1)
    torch.testing.assert_close((first.pop("loss") + second.pop("loss")) / 2, alone.pop("loss"))
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-5, msg=name)
