import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.batch import Batch, View
from distill.distortions import Distorter
from distill.errors import CheckpointError
from distill.hubert import HubertConfig, HubertEncoder
from distill.options import MaskingConfig, OptimConfig
from tests.paths import GOLDEN, ROOT

OPTIM = OptimConfig(lr=1e-3, max_steps=40)
CLUSTERS = 5
CROSS_ENTROPY = MaskingConfig(feature_penalty=0.0)  # alone, as the golden loss


def tiny_encoder(**changes):
    torch.manual_seed(0)
    small = {"layers": 2, "dim": 32, "heads": 2, "ffn_dim": 64, "position_groups": 4}
    return HubertEncoder.from_preset("mini", **{**small, **changes})


def batch_of(waveforms, lengths, targets):
    return Batch([str(row) for row in range(len(waveforms))], waveforms, lengths, targets=targets)


def tiny_batch(seed=0, samples=(16_000, 12_000, 9_000)):
    """Noise whose colour changes every few frames; the target names the colour."""
    rng = torch.Generator().manual_seed(seed)
    frames = HubertConfig().frames(torch.tensor(samples))
    waveforms = torch.zeros(len(samples), max(samples))
    targets = torch.full((len(samples), int(frames.max())), -1)
    for row, (length, n_frames) in enumerate(zip(samples, frames.tolist(), strict=True)):
        blocks = torch.randint(CLUSTERS, (length // 3200 + 1,), generator=rng)
        labels = blocks.repeat_interleave(10)[:n_frames]
        hz = 200.0 * 2.0 ** blocks.repeat_interleave(3200)[:length]
        phase = torch.cumsum(2 * torch.pi * hz / 16_000, 0)
        waveforms[row, :length] = 0.2 * phase.sin() + 0.01 * torch.randn(length, generator=rng)
        targets[row, :n_frames] = labels
    return batch_of(waveforms, torch.tensor(samples), targets)


def tiny_module(optim=OPTIM, **changes):
    encoder = tiny_encoder()
    return MaskedPrediction(encoder, CLUSTERS, optim=optim, final_dim=16, **changes)


def targets_of(batch) -> torch.Tensor:
    assert batch.targets is not None
    return batch.targets


class Logged(pl.Callback):
    def __init__(self):
        self.train, self.dev = [], []

    def on_train_batch_end(self, trainer, *_):
        self.train.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def on_validation_epoch_end(self, trainer, *_):
        self.dev.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def loader_of(batches: Any) -> torch.utils.data.DataLoader:
    return torch.utils.data.DataLoader(batches, batch_size=None)


def fit(module, batch, folder, *, ckpt_path=None, val=None, **options):
    logged = Logged()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[logged],
        **{
            "enable_checkpointing": False,
            "max_steps": module.optim.max_steps,
            "num_sanity_val_steps": 0,
            **options,
        },
    )
    loader = loader_of([batch] * 10)
    trainer.fit(module, loader, val, ckpt_path=ckpt_path)
    return trainer, logged


@pytest.mark.parametrize("name", ["base", "large"])
def test_logits_and_loss_are_fairseqs(name):
    fairseq = pytest.importorskip("distill.checkpoints.fairseq")
    path = GOLDEN / f"hubert_{name}_fairseq.pt"
    golden = torch.load(GOLDEN / f"hubert_{name}_expected.pt", weights_only=True)
    config, state, _ = fairseq.read(path)
    head = fairseq.read_head(path)
    encoder = HubertEncoder(config)
    encoder.load_state_dict(state)
    rows, final_dim = head["label_embs_concat"].shape
    module = MaskedPrediction(encoder, rows, final_dim=final_dim, masking=CROSS_ENTROPY, optim=OPTIM).eval()
    module.load_head(head)
    mask, targets = golden["mask_indices"], golden["targets"]
    batch = batch_of(golden["wave"], golden["wave_lengths"], targets)
    with torch.no_grad():
        hidden = encoder(
            batch.waveforms, batch.lengths, mask=mask, mask_embedding=module.mask_embedding
        ).last_hidden_state
        logits = module.logits(hidden)[mask]
        loss = module.loss(batch, mask)
    # fairseq puts the target's logit first, then all clusters with the target's own at minus infinity
    expected = golden["masked_logits"]
    own = F.one_hot(targets[mask], rows).bool()
    assert torch.equal(torch.isinf(expected[:, 1:]), own)
    assert (logits[own] - expected[:, 0]).abs().max() < 1e-4
    assert (logits - expected[:, 1:])[~own].abs().max() < 1e-4
    assert loss.total.item() * len(expected) == pytest.approx(golden["masked_loss_sum"].item(), rel=1e-5)
    # a checkpoint of n clusters has n + 4 rows: the special symbols' may be left out
    without_specials = MaskedPrediction(encoder, rows - 4, final_dim=final_dim, optim=OPTIM)
    without_specials.load_head(head)
    assert torch.equal(without_specials.label_embeddings, head["label_embs_concat"][4:])


def test_loss_terms_against_their_definitions():
    module = tiny_module(masking=MaskingConfig(unmasked_weight=0.5)).eval()
    batch = tiny_batch()
    mask = torch.zeros(targets_of(batch).shape, dtype=torch.bool)
    mask[0, 5:20] = mask[1, 0:10] = mask[2, 15:25] = True
    targets_of(batch)[0, 7] = -1  # a masked frame without a label does not count
    with torch.no_grad():
        loss = module.loss(batch, mask)
        out = module.encoder(
            batch.waveforms, batch.lengths, return_cnn=True, mask=mask, mask_embedding=module.mask_embedding
        )
        masked, unmasked, squares, correct = [], [], [], 0
        for row in range(3):
            for frame in range(int(out.lengths[row])):
                squares.append(out.cnn[row, frame].square())
                target = int(targets_of(batch)[row, frame])
                if target < 0:
                    continue
                projected = module.final_proj(out.last_hidden_state[row, frame])
                logits = torch.cosine_similarity(projected[None], module.label_embeddings) / 0.1
                term = logits.logsumexp(0) - logits[target]
                (masked if mask[row, frame] else unmasked).append(term)
                correct += int(mask[row, frame]) * int(logits.argmax() == target)
    penalty = torch.stack(squares).mean()
    expected = torch.stack(masked).mean() + 0.5 * torch.stack(unmasked).mean() + 10 * penalty
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.penalty.item() == pytest.approx(penalty.item(), rel=1e-5)
    assert (int(loss.masked), int(loss.unmasked)) == (len(masked), len(unmasked)) == (34, len(unmasked))
    assert int(loss.masked_correct) == correct


def test_masked_input_cannot_be_seen():
    """Frames under the mask reach the loss through neighbours' receptive fields at most: here not at all."""
    module = tiny_module(masking=CROSS_ENTROPY).eval()
    # layer norm in the CNN: the group norm's statistics would let every sample be felt everywhere
    module.encoder = tiny_encoder(conv_norm="layer").eval()
    batch = tiny_batch(samples=(16_000,))
    mask = torch.zeros(1, 49, dtype=torch.bool)
    mask[0, 10:20] = True
    other = batch_of(batch.waveforms.clone(), batch.lengths, batch.targets)
    other.waveforms[0, 10 * 320 + 400 : 19 * 320] = 0.0
    assert torch.equal(module.loss(batch, mask).total, module.loss(other, mask).total)
    assert not torch.equal(module.loss(batch, ~mask).total, module.loss(other, ~mask).total)


def test_loss_of_padded_batch_is_that_of_its_utterances():
    module = tiny_module().eval()
    batch = tiny_batch()
    mask = torch.zeros(targets_of(batch).shape, dtype=torch.bool)
    mask[:, 3:13] = True
    total = module.loss(batch, mask)
    entropies, squares, frames = 0.0, 0.0, 0
    for row, length in enumerate(batch.lengths.tolist()):
        n = HubertConfig().frames(length)
        alone = batch_of(
            batch.waveforms[row : row + 1, :length],
            torch.tensor([length]),
            targets_of(batch)[row : row + 1, :n],
        )
        loss = module.loss(alone, mask[row : row + 1, :n])
        entropies += (loss.total - 10 * loss.penalty).item() * 10
        squares += loss.penalty.item() * n
        frames += n
    assert total.total.item() == pytest.approx(entropies / 30 + 10 * squares / frames, rel=1e-4)


def test_mean_over_ranks_is_the_loss_of_the_global_batch(monkeypatch):
    """DDP averages what the ranks compute; their numbers of masked frames differ. Collectives are played."""
    module = tiny_module(masking=MaskingConfig(unmasked_weight=0.3))
    module.encoder = tiny_encoder(dropout=0.0, attention_dropout=0.0)
    batch = tiny_batch(samples=(16_000, 16_000))
    mask = torch.zeros(2, 49, dtype=torch.bool)
    mask[0, 3:33] = mask[1, 5:10] = True
    whole = module.loss(batch, mask).total.item()
    parts = []
    for rank in range(2):
        other = torch.tensor([mask[1 - rank].sum(), (~mask[1 - rank]).sum(), 49])
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
        monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts, other=other: counts.add_(other))
        row = slice(rank, rank + 1)
        local = batch_of(batch.waveforms[row], batch.lengths[row], targets_of(batch)[row])
        parts.append(module.loss(local, mask[row]).total.item())
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-5)


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


def test_accumulating_changes_nothing_in_two_processes(tmp_path):
    """Whose shares of a batch differ in size; nor do the processes differ from each other."""
    worker = Path(__file__).with_name("accumulate_worker.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(worker), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT)},  # for what it takes from this file
    )
    assert not done.returncode, done.stderr[-3000:]
    states = [
        torch.load(tmp_path / f"{accumulate}-rank{rank}.pt") for accumulate in (1, 3) for rank in (0, 1)
    ]
    for state in states[1:]:
        assert max((state[name] - states[0][name]).abs().max().item() for name in state) < 1e-6


def test_distorter_gets_the_plan_and_targets_stay(tmp_path):
    distorter = Distorter.from_config("2-dist")
    module = tiny_module(distorter=distorter).eval()
    plain = tiny_module().eval()
    plain.load_state_dict(module.state_dict())
    batch = tiny_batch()
    mask = module._draw_mask(batch, (0, 0, 0))
    noises = [torch.randn(20_000, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    view = View(distorter.plan(["a", "b", "c"], seed=3), list(noises), [None] * 3)
    batch.views["student"] = view
    distorted, labels = distorter(batch.waveforms, batch.lengths, view.plan, view.noises, view.rirs)
    assert labels[:, :6].any()
    expected = plain.loss(batch_of(distorted, batch.lengths, batch.targets), mask)
    assert torch.equal(module.loss(batch, mask).total, expected.total)
    assert not torch.equal(expected.total, plain.loss(batch, mask).total)


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


@pytest.mark.parametrize(
    "wrong",
    [{"lr": 0.0}, {"max_steps": 0}, {"warmup": 1.0}, {"weight_decay": -1.0}, {"clip_norm": -1.0}],
)
def test_wrong_optim_options_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        OptimConfig(**{"lr": 1e-3, "max_steps": 10, **wrong})


def test_wrong_arguments_are_refused():
    encoder = tiny_encoder()
    for options, name in (({"n_clusters": 1}, "n_clusters"), ({"temperature": 0.0}, "temperature")):
        with pytest.raises(ValueError, match=name):
            MaskedPrediction(encoder, **{"n_clusters": 5, "optim": OPTIM, **options})
    module, batch = tiny_module(), tiny_batch()
    batch.targets = targets_of(batch)[:, :-1]
    with pytest.raises(ValueError, match=r"targets must be \(3, 49\)"):
        module.training_step(batch, 0)
    batch.targets = None
    with pytest.raises(ValueError, match="no targets"):
        module.training_step(batch, 0)


def test_load_head_says_what_does_not_fit():
    module = tiny_module()
    head = {
        "mask_emb": torch.randn(32),
        "final_proj.weight": torch.randn(16, 32),
        "final_proj.bias": torch.randn(16),
        "label_embs_concat": torch.randn(500, 16),
    }
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"label_embs_concat is \(500, 16\), expected \(5, 16\)"):
        module.load_head(head)
    with pytest.raises(CheckpointError, match="mask_emb is missing"):
        module.load_head({})
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    module.load_head(head, label_embeddings=False)
    assert torch.equal(module.mask_embedding, head["mask_emb"])
    assert torch.equal(module.final_proj.weight, head["final_proj.weight"])
    assert torch.equal(module.label_embeddings, before["label_embeddings"])


def test_imports_without_optional_packages():
    code = (
        "import sys\n"
        "for name in ('lhotse', 'omegaconf', 'torchaudio', 'sklearn'): sys.modules[name] = None\n"
        "import distill.adaptation.masked_prediction, distill.adaptation.targets"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
