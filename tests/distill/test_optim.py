"""AdamW and its schedule against torch's and s3prl's; updates that are left out."""

import copy

import pytest
import torch
from torch import Tensor

from distill.optim import FusedAdamW, OptimConfig, adamw


def test_schedule_is_that_of_s3prl():
    """Update n, the first of which is 1, has factor n: read off what their optimiser adds to a weight."""
    optimizers = pytest.importorskip("s3prl.optimizers")
    for warmup, total in ((0.07, 100), (0.07, 130), (0.0, 20)):
        optim = OptimConfig(lr=1e-2, max_steps=total, warmup=warmup)
        model = torch.nn.Linear(1, 1, bias=False).double()
        torch.nn.init.zeros_(model.weight)
        theirs = optimizers.get_optimizer(
            [model], total, {"name": "AdamW_with_schedule", "lr": 1e-2, "warmup_proportion": warmup}
        )
        for group in theirs.param_groups:
            group["weight_decay"] = 0.0
        for update in range(1, total + 1):
            before = model.weight.item()
            model.weight.grad = torch.ones_like(model.weight)  # a steady gradient: Adam's step is the rate
            theirs.step()
            rate = before - model.weight.item()
            assert rate == pytest.approx(1e-2 * optim.schedule(update), rel=1e-5, abs=1e-9), update


DECAY = OptimConfig(lr=1e-3, weight_decay=0.1)


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (50, 30), (7,), (3, 4, 5)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def update(optimizer: torch.optim.Optimizer, parameters: list[Tensor], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def plain(parameters: list[Tensor]) -> torch.optim.AdamW:
    """torch's, one operation after the other."""
    options = {"lr": DECAY.lr, "betas": DECAY.betas, "eps": DECAY.eps, "weight_decay": DECAY.weight_decay}
    return torch.optim.AdamW(parameters, foreach=False, **options)


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters, moments and counts."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = [optimizer.state[p][name] for p in parameters for name in ("step", "exp_avg", "exp_avg_sq")]
    return [x.detach().clone() for x in (*parameters, *states)]


def test_fifty_fused_updates_are_those_of_plain_adamw():
    one, other = weights(), weights()
    fused, reference = adamw(one, DECAY), plain(other)
    for step in range(50):
        for optimizer in (fused, reference):
            optimizer.param_groups[0]["lr"] = DECAY.lr * (step + 1) / 50
        update(fused, one, step)
        update(reference, other, step)
    for found, expected, start in zip(one, other, weights(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
        assert (found - expected).norm() < 1e-5 * (expected - start).norm()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_changes_nothing_at_all(value):
    parameters = weights()
    optimizer = adamw(parameters, DECAY)
    update(optimizer, parameters, 0)
    before = state_of(optimizer)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    parameters[1].grad = torch.full_like(parameters[1], value)
    assert not optimizer.clip(5.0).isfinite()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(optimizer), strict=True))
    other = weights()
    reference = adamw(other, DECAY)
    for step in (0, 2):
        update(reference, other, step)
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.clip(0.0)
    update(optimizer, parameters, 2)  # as if there had been nothing between
    assert all(torch.equal(a, b) for a, b in zip(state_of(optimizer), state_of(reference), strict=True))


def test_the_gradient_is_clipped_to_a_norm():
    parameters = weights()
    optimizer = adamw(parameters, DECAY)
    for limit, expected in ((0.0, 10.0), (20.0, 10.0), (2.5, 2.5)):
        parameters[0].grad, parameters[1].grad = torch.zeros(50, 30), torch.zeros(7)
        parameters[0].grad[3, 4], parameters[1].grad[2] = 6.0, 8.0
        assert float(optimizer.clip(limit)) == 10.0  # before
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        assert float(norm) == pytest.approx(expected, rel=1e-5)


def test_the_state_of_an_optimizer_that_was_not_fused_is_continued():
    """As earlier versions have written it."""
    one, other = weights(), weights()
    before, whole = plain(one), adamw(other, DECAY)
    for step in range(3):
        update(before, one, step)
        update(whole, other, step)
    continued = FusedAdamW(one, lr=1.0)
    continued.load_state_dict(copy.deepcopy(before.state_dict()))
    assert continued.param_groups[0]["fused"] and continued.param_groups[0]["lr"] == DECAY.lr
    update(continued, one, 3)
    update(whole, other, 3)
    for found, expected in zip(one, other, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
