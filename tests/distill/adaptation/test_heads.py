import copy

import pytest
import torch

from distill.adaptation.heads import Agreement, agreement, cluster_rows, head_of, read_head, reuse_head
from distill.adaptation.masked_prediction import MaskedPrediction
from distill.checkpoints import fairseq, native, safe_pickle
from distill.checkpoints.files import write_safetensors
from distill.objective.masking import span_mask
from distill.options import MaskingConfig
from tests.distill.adaptation.tiny_training import (
    CLUSTERS,
    OPTIM,
    targets_of,
    tiny_batch,
    tiny_encoder,
    tiny_module,
)
from tests.paths import GOLDEN

SAMPLES = (16_000,) * 6


@pytest.fixture(scope="module")
def trained():
    """A module that has learnt to tell the colours of tiny_batch under HuBERT's masks."""
    module = tiny_module(masking=MaskingConfig(feature_penalty=0.0, unmasked_weight=1.0))
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    batch = tiny_batch(samples=SAMPLES)
    for step in range(60):
        loss = module.loss(batch, module._draw_mask(batch, (1, step, 0)))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    return module


def fresh(trained, n_clusters=CLUSTERS):
    """The trained encoder with a random head."""
    torch.manual_seed(5)
    encoder = tiny_encoder()
    encoder.load_state_dict(trained.encoder.state_dict())
    return MaskedPrediction(encoder, n_clusters, optim=OPTIM, final_dim=16)


def head_state(module):
    return {k: v.clone() for k, v in module.state_dict().items() if not k.startswith("encoder.")}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_head_of_these_very_targets_is_taken_over(trained):
    module = fresh(trained)
    taken, why = reuse_head(module, head_of(trained.state_dict()), [tiny_batch(samples=SAMPLES)], "old.pt")
    assert taken and equal(head_state(module), head_state(trained))
    assert why.startswith("prediction head of old.pt taken over: right on ") and "\n" not in why
    assert module.training


def test_a_head_of_other_targets_is_not(trained):
    """The same number of clusters, numbered otherwise: only trying it can tell."""
    module = fresh(trained)
    before = head_state(module)
    batch = tiny_batch(samples=SAMPLES)
    batch.targets = (targets_of(batch) + 1) % CLUSTERS
    taken, why = reuse_head(module, head_of(trained.state_dict()), [batch], "old.pt")
    assert not taken and equal(head_state(module), before)
    assert (
        "started afresh: that of old.pt does not predict these targets (another codebook?): right on" in why
    )


def test_a_head_of_another_size_is_not_even_tried(trained):
    module = fresh(trained, n_clusters=7)
    before = head_state(module)
    taken, why = reuse_head(module, head_of(trained.state_dict()), iter(()), "old.pt")
    assert not taken and equal(head_state(module), before)
    assert why == (
        f"prediction head started afresh: that of old.pt is for {CLUSTERS + 4} clusters, the targets have 7"
    )


def test_nothing_to_try_it_on_is_no_agreement(trained):
    taken, _ = reuse_head(fresh(trained), head_of(trained.state_dict()), [], "old.pt")
    assert not taken


def test_agreement_counts_masked_frames_with_a_target(trained):
    batch = tiny_batch(samples=(16_000, 12_000))
    targets_of(batch)[0, :10] = -1
    mask = span_mask(torch.tensor([49, 37]), generator=torch.Generator().manual_seed(0))
    trained.eval()
    with torch.no_grad():
        hidden = trained.encoder(
            batch.waveforms, batch.lengths, mask=mask, mask_embedding=trained.mask_embedding
        ).last_hidden_state
    right, wanted = 0, []
    for row, frames in enumerate((49, 37)):
        for frame in range(frames):
            target = int(targets_of(batch)[row, frame])
            if mask[row, frame] and target >= 0:
                wanted.append(target)
                guess = torch.cosine_similarity(
                    trained.final_proj(hidden[row, frame])[None], trained.label_embeddings
                ).argmax()
                right += int(guess == target)
    majority = max(wanted.count(cluster) for cluster in range(CLUSTERS))
    assert agreement(trained, [batch]) == Agreement(right, majority, len(wanted))
    trained.train()


def test_above_chance_is_three_standard_errors():
    # 10 % of 4000 frames = 400 spans: 3 * sqrt(0.1 * 0.9 / 400) = 4.5 %
    assert not Agreement(correct=400, majority=400, frames=4000).above_chance
    assert not Agreement(correct=578, majority=400, frames=4000).above_chance
    assert Agreement(correct=582, majority=400, frames=4000).above_chance
    assert not Agreement(correct=0, majority=0, frames=0).above_chance


@pytest.mark.parametrize("name", ["base", "large"])
def test_heads_of_fairseq_checkpoints_without_their_special_symbols(name):
    path = GOLDEN / f"hubert_{name}_fairseq.pt"
    head, whole = read_head(str(path)), fairseq.read_head(path)
    assert head is not None and whole is not None
    assert torch.equal(head["label_embs_concat"], whole["label_embs_concat"][4:])
    assert torch.equal(head["mask_emb"], whole["mask_emb"])


def test_the_dictionary_says_which_row_is_which_cluster():
    contents = safe_pickle.load(GOLDEN / "hubert_base_fairseq.pt")
    assert cluster_rows(contents, 24) == list(range(4, 24))
    symbols = contents["task_state"]["dictionaries"][0].state["symbols"]
    symbols[4:] = reversed(symbols[4:])
    assert cluster_rows(contents, 24) == list(reversed(range(4, 24)))
    assert cluster_rows(contents, 20) is None  # of another size
    symbols[5] = "word"  # a cluster is missing
    assert cluster_rows(contents, 24) is None
    for broken in ({}, {"task_state": None}, {"task_state": {"dictionaries": [None]}}, None):
        assert cluster_rows(copy.copy(broken), 24) is None


def test_heads_of_our_own_runs(trained, tmp_path):
    teacher = native.write(trained.encoder, tmp_path)
    assert read_head(str(teacher)) is None and read_head(str(tmp_path)) is None
    write_safetensors(tmp_path / "head.safetensors", head_of(trained.state_dict()))
    for source in (str(teacher), str(tmp_path)):
        head = read_head(source)
        assert head is not None and head["label_embs_concat"].shape == (4 + CLUSTERS, 16)
        module = fresh(trained)
        module.load_head(head)
        assert equal(head_state(module), head_state(trained))
    for none in ("random:mini", "org/name", str(tmp_path / "nowhere.pt")):
        assert read_head(none) is None
