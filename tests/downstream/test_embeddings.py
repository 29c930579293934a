"""Embeddings of utterances."""

import pytest
import torch

from distill.downstream.embeddings import embed
from distill.hubert import HubertEncoder


@pytest.mark.parametrize("pre_norm", [False, True])
def test_embeddings_are_those_of_each_utterance_alone(pre_norm):
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini", pre_norm=pre_norm).eval()
    waves, lengths = torch.randn(3, 6000), torch.tensor([6000, 2000, 4321])
    batch = embed(encoder, waves, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(waves[row : row + 1, :length]).last_hidden_state.mean(1)[0]
        torch.testing.assert_close(batch[row], alone, atol=1e-5, rtol=1e-4)
    assert not batch.requires_grad
