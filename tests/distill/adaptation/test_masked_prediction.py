"""The loss of masked prediction: fairseq's, and by its definition."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.batch import View
from distill.distortions import Distorter
from distill.errors import CheckpointError
from distill.hubert import HubertConfig, HubertEncoder
from distill.optim import OptimConfig
from distill.options import MaskingConfig
from tests.distill.adaptation.tiny_training import (
    OPTIM,
    batch_of,
    targets_of,
    tiny_batch,
    tiny_encoder,
    tiny_module,
)
from tests.paths import GOLDEN

CROSS_ENTROPY = MaskingConfig(feature_penalty=0.0)  # alone, as the golden loss


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
