"""Trainings of masked prediction: what is logged, resumed, accumulated and saved."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.hubert import HubertConfig, HubertEncoder
from distill.optim import OptimConfig
from distill.options import MaskingConfig
from tests.distill.adaptation.tiny_training import (
    CLUSTERS,
    fit,
    loader_of,
    tiny_batch,
    tiny_encoder,
    tiny_module,
)
from tests.paths import ROOT


def test_gradient_reaches_everything_and_padding_gives_none():
    module = tiny_module()
    batch = tiny_batch()
    batch.waveforms.requires_grad_()
    module.loss(batch, module._draw_mask(batch, (1, 0, 0))).total.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    # a query-key product does not change with the key's bias
    assert [name for name in without if not name.endswith("key.bias")] == []
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in module.parameters())
    gradient = batch.waveforms.grad
    assert gradient is not None
    assert gradient[1, :12_000].any() and not gradient[1, 12_000:].any()


def test_forty_steps_lower_the_loss_and_raise_masked_accuracy(tmp_path):
    module = tiny_module(OptimConfig(lr=5e-3, max_steps=40))
    batch = tiny_batch(samples=(16_000,) * 4)
    _, logged = fit(module, batch, tmp_path)
    assert len(logged.train) == 40
    first, last = logged.train[:5], logged.train[-5:]

    def mean(rows, name):
        return sum(row[f"train/{name}"] for row in rows) / len(rows)

    assert mean(last, "loss") < 0.7 * mean(first, "loss")
    assert mean(last, "masked_accuracy") > mean(first, "masked_accuracy") + 0.3
    assert {"train/loss", "train/masked_accuracy", "train/unmasked_accuracy", "train/feature_penalty"} <= set(
        last[0]
    )


def test_dev_accuracy_is_that_of_all_its_frames_and_its_masks_are_fixed(tmp_path):
    module = tiny_module(OptimConfig(lr=1e-9, max_steps=20))
    batches = [tiny_batch(1, (16_000,) * 3), tiny_batch(2, (8_000,))]
    dev = loader_of(batches)
    _, logged = fit(module, tiny_batch(), tmp_path, val=dev)
    assert len(logged.dev) == 2
    module.eval()
    correct = masked = 0
    for index, batch in enumerate(batches):
        loss = module.loss(batch, module._draw_mask(batch, (0, 0, index)))
        correct, masked = correct + int(loss.masked_correct), masked + int(loss.masked)
    for values in logged.dev:
        assert values["val/masked_accuracy"] == pytest.approx(correct / masked, abs=1e-6)


def test_training_masks_change_and_a_resumed_run_draws_the_same(tmp_path):
    # An epoch has 10 batches: stopping after 10 makes Lightning count batch_idx differently on resume.
    def run(folder, steps, ckpt_path=None):
        torch.manual_seed(1)
        module = tiny_module(OptimConfig(lr=1e-3, max_steps=20))
        masks = {}
        draw = module._draw_mask

        def record(batch, key):
            masks[module.global_step] = draw(batch, key)
            return masks[module.global_step]

        module._draw_mask = record
        trainer, _ = fit(module, tiny_batch(), folder, max_steps=steps, ckpt_path=ckpt_path)
        trainer.save_checkpoint(folder / "last.ckpt")
        return masks

    whole = run(tmp_path / "whole", 20)
    run(tmp_path / "half", 10)
    rest = run(tmp_path / "rest", 20, ckpt_path=tmp_path / "half" / "last.ckpt")
    assert sorted(rest) == list(range(10, 20))
    assert all(torch.equal(whole[step], rest[step]) for step in rest)
    assert not any(torch.equal(whole[step], whole[step + 1]) for step in range(19))


def test_accumulating_splits_a_batch_and_changes_nothing_else(tmp_path):
    """Micro-batches of uneven length: the same masks, updates and numbers in the log as the whole batch."""
    found = {}
    for accumulate in (1, 3):
        torch.manual_seed(2)
        optim = OptimConfig(lr=1e-2, eps=1e-3, max_steps=6, warmup=0.0, accumulate=accumulate)
        module = tiny_module(optim, masking=MaskingConfig(unmasked_weight=0.3))
        module.encoder = tiny_encoder(dropout=0.0, attention_dropout=0.0)
        batch = tiny_batch(samples=(16_000, 12_000, 9_000, 15_000, 4_000))
        trainer, logged = fit(module, batch, tmp_path)
        assert trainer.global_step == 6
        found[accumulate] = module.state_dict(), logged.train
    whole, parts = found[1][0], found[3][0]
    assert max((whole[name] - parts[name]).abs().max().item() for name in whole) < 1e-6
    assert any((whole[name] - tiny_module().state_dict()[name]).abs().max() > 1e-4 for name in whole)
    assert len(found[1][1]) == len(found[3][1]) == 6
    for one, other in zip(found[1][1], found[3][1], strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_accumulating_changes_nothing_in_two_processes(tmp_path):
    """Whose shares of a batch differ in size; nor do the processes differ from each other."""
    worker = Path(__file__).with_name("accumulate_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(worker), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # for the tests' own modules
    )
    assert not done.returncode, done.stderr[-3000:]
    states = [
        torch.load(tmp_path / f"{accumulate}-rank{rank}.pt") for accumulate in (1, 3) for rank in (0, 1)
    ]
    for state in states[1:]:
        assert max((state[name] - states[0][name]).abs().max().item() for name in state) < 1e-6


def test_clipping_and_schedule_are_applied(tmp_path):
    optim = OptimConfig(lr=1e-3, max_steps=10, warmup=0.3, clip_norm=0.01)
    rates, norms = [], []

    class Watch(MaskedPrediction):
        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            rates.append(optimizer.param_groups[0]["lr"])
            gradients = [p.grad.norm() for p in self.parameters() if p.grad is not None]
            norms.append(torch.stack(gradients).norm().item())

    module = Watch(tiny_encoder(), CLUSTERS, optim=optim)
    fit(module, tiny_batch(), tmp_path)
    assert max(norms) == pytest.approx(0.01, rel=1e-3)
    assert rates == pytest.approx(
        [1e-3 * x for x in (1 / 3, 2 / 3, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0)]
    )


def test_checkpoint_is_a_teacher(tmp_path):
    module = tiny_module(OptimConfig(lr=1e-3, max_steps=2))
    trainer, _ = fit(module, tiny_batch(), tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["distill"]["kind"] == "teacher"
    assert checkpoint["distill"]["provenance"]["step"] == 2
    encoder = HubertEncoder(HubertConfig(**checkpoint["distill"]["architecture"]))
    prefix = "encoder."
    encoder.load_state_dict(
        {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    )
    waveforms = tiny_batch().waveforms
    with torch.no_grad():
        expected = module.encoder.eval()(waveforms).last_hidden_state
        assert torch.equal(encoder.eval()(waveforms).last_hidden_state, expected)
