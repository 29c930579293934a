"""What both families of encoders have in common."""

import pytest
import torch

from distill.encoder import scale_gradient
from distill.hubert import HubertEncoder
from distill.spiral import SpiralEncoder
from distill.student import config_of, encoder_of


def test_scaled_gradient():
    x = torch.ones(3, requires_grad=True)
    y = scale_gradient(x, 0.1)
    y.sum().backward()
    assert torch.equal(y, x) and x.grad is not None and x.grad.tolist() == pytest.approx([0.1] * 3)
    assert scale_gradient(x, 1.0) is x


@pytest.mark.parametrize("encoder", [HubertEncoder.from_preset("mini"), SpiralEncoder.from_preset("mini")])
def test_what_every_encoder_says_of_itself(encoder):
    config = encoder.eval().config
    waves = torch.randn(2, 9_000)
    out = encoder(waves, torch.tensor([9_000, 5_000]), return_cnn=True)
    assert len(out.hidden_states) == config.layers + 1 == len(out.features)
    assert all(h.shape == (2, config.frames(9_000), config.dim) for h in out.features)
    assert out.lengths.tolist() == [config.frames(9_000), config.frames(5_000)]
    assert out.cnn is not None and out.cnn.shape[:2] == out.last_hidden_state.shape[:2]
    assert config.frames(config.min_samples) == 1
    again = config_of(config.to_dict())
    assert again == config and type(encoder_of(again)) is type(encoder)
    m, c = config.mask_shape(9_000)
    mask = torch.zeros(2, m, dtype=torch.bool)
    masked = encoder(
        waves, mask=mask, mask_channels=torch.zeros(2, c, dtype=torch.bool), mask_embedding=torch.zeros(c)
    )
    full = encoder(waves)
    torch.testing.assert_close(masked.last_hidden_state, full.last_hidden_state)
