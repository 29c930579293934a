"""Features of a layer are the encoder's, whatever its mode and however long the recording."""

from typing import Any

import pytest
import torch

from distill.adaptation.layer_features import layer_features
from distill.hubert import HubertEncoder

TINY: dict[str, Any] = {"dim": 32, "heads": 2, "ffn_dim": 64, "position_groups": 4}


def noise(samples, seed=0):
    return 0.1 * torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def test_layer_features_are_the_encoders_without_dropout(encoder):
    encoder.train()
    waveform = noise(8000)
    features = layer_features(encoder, waveform, 2)
    assert encoder.training and not features.requires_grad
    expected = encoder.eval()(waveform[None]).hidden_states[2][0]
    assert torch.allclose(features, expected, atol=1e-6)
    with pytest.raises(ValueError, match="layer must be in 1..2"):
        layer_features(encoder, waveform, 3)


def test_the_last_layer_of_a_pre_norm_model_is_taken_after_its_final_norm():
    """And only of the last: blocks are made with an encoder that is cut after the layer."""
    torch.manual_seed(0)
    large = HubertEncoder.from_preset("mini", layers=3, pre_norm=True, **TINY).eval()
    torch.nn.init.uniform_(large.norm.weight, 0.5, 1.5)
    with torch.no_grad():
        out = large(noise(4000)[None])
    torch.testing.assert_close(layer_features(large, noise(4000), 3), out.last_hidden_state[0])
    large.layers = large.layers[:2]
    torch.testing.assert_close(layer_features(large, noise(4000), 2), out.hidden_states[2][0])


@pytest.mark.parametrize("samples", [400 + 320 * 60, 400 + 320 * 59 + 17, 400 + 320 * 20, 8000])
def test_long_recordings_are_encoded_in_parts_that_lose_no_frame(encoder, monkeypatch, samples):
    """Without anything that looks beyond a frame's own samples, parts and whole are the same."""
    local = HubertEncoder.from_preset("mini", layers=1, conv_norm="layer", **TINY).eval()
    monkeypatch.setattr(local.position, "forward", torch.zeros_like)
    torch.nn.init.zeros_(local.layers[0].get_parameter("attention_out.weight"))
    waveform = noise(samples)
    whole = layer_features(local, waveform, 1)
    monkeypatch.setattr("distill.adaptation.layer_features.MAX_FRAMES", 20)
    calls = []
    local.register_forward_pre_hook(lambda module, arguments: calls.append(arguments[0].shape[1]))
    parts = layer_features(local, waveform, 1)
    n_parts = -(-len(whole) // 20)
    assert len(calls) == n_parts and max(calls) < 400 + 320 * 20
    assert parts.shape == whole.shape and torch.allclose(parts, whole, atol=1e-5)
