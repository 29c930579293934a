"""AdamW's schedule against that of s3prl."""

import pytest
import torch

from distill.optim import OptimConfig


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
