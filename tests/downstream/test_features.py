"""Which hidden states a head hears, and the identity of the model that they are of."""

from dataclasses import replace

import pytest
import torch

from distill.downstream.features import Selection, hash_encoder
from distill.hubert import HubertEncoder


def large() -> HubertEncoder:
    torch.manual_seed(0)
    encoder = HubertEncoder.from_preset("mini", layers=2, pre_norm=True).eval()
    torch.nn.init.uniform_(encoder.norm.weight, 0.5, 1.5)
    return encoder


@pytest.mark.parametrize("features", ["last", "layer:2", "weighted_sum"])
@torch.no_grad()
def test_the_last_layer_of_a_pre_norm_model_is_heard_behind_its_final_norm(features):
    encoder = large()
    out = encoder(torch.randn(1, 4000))
    selected = Selection(features, 2).select(out)
    last = selected[:, :, -1] if features == "weighted_sum" else selected
    torch.testing.assert_close(last, encoder.norm(out.hidden_states[2]))
    if features == "weighted_sum":
        assert torch.equal(selected[:, :, :2], torch.stack(out.hidden_states[:2], 2))


def test_the_hash_is_of_all_that_decides_the_features():
    """Scores, heads and caches are kept under it: the same weights are not always the same model."""
    encoder = HubertEncoder.from_preset("mini", layers=1)
    hashes = {hash_encoder(encoder)}
    for change in (
        {"pre_norm": True},
        {"normalize_input": True},
        {"heads": 8},
        {
            "conv_layers": tuple(
                (c, k, s + (i == 6)) for i, (c, k, s) in enumerate(encoder.config.conv_layers)
            )
        },
    ):
        other = HubertEncoder(replace(encoder.config, **change))
        other.load_state_dict(encoder.state_dict())
        hashes.add(hash_encoder(other))
    assert len(hashes) == 5
