"""The transformer against torch's own, attention that is used twice, and dropped layers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from distill.transformer import TransformerConfig, TransformerLayer, make_layers, run_layers

CONFIG = TransformerConfig(dim=16, layers=2, heads=4, ffn_dim=32, dropout=0.0, attention_dropout=0.0)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_layer_is_torch_s(pre_norm):
    ours = TransformerLayer(
        TransformerConfig(dim=16, layers=1, heads=4, ffn_dim=32, pre_norm=pre_norm)
    ).eval()
    theirs = nn.TransformerEncoderLayer(
        16, 4, 32, activation="gelu", batch_first=True, norm_first=pre_norm
    ).eval()
    attention = [ours.query, ours.key, ours.value]
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([one.weight for one in attention]),
            "self_attn.in_proj_bias": torch.cat([one.bias for one in attention]),
        }
        | {f"self_attn.out_proj.{k}": v for k, v in ours.attention_out.state_dict().items()}
        | {f"linear1.{k}": v for k, v in ours.ffn_in.state_dict().items()}
        | {f"linear2.{k}": v for k, v in ours.ffn_out.state_dict().items()}
        | {f"norm1.{k}": v for k, v in ours.attention_norm.state_dict().items()}
        | {f"norm2.{k}": v for k, v in ours.ffn_norm.state_dict().items()}
    )
    x, lengths = torch.randn(2, 9, 16), torch.tensor([9, 5])
    valid = torch.arange(9) < lengths[:, None]
    wanted = theirs(x, src_key_padding_mask=~valid)
    found = ours(x, valid[:, None, None])
    torch.testing.assert_close(found[valid], wanted[valid], atol=1e-5, rtol=1e-4)


def test_a_dropped_layer_has_gradients_of_zero():
    torch.manual_seed(0)  # a thousandth of them is not dropped
    config = TransformerConfig(dim=16, layers=2, heads=4, ffn_dim=32, layerdrop=0.999, dropout=0.0)
    layers = [TransformerLayer(config) for _ in range(2)]
    x = torch.randn(1, 3, 16)
    states = run_layers(layers, x, None, config, training=True)
    assert torch.equal(states[-1], x) and len(states) == 3
    states[-1].sum().backward()
    assert all(p.grad is not None and not p.grad.any() for layer in layers for p in layer.parameters())
    assert not torch.equal(run_layers(layers, x, None, config, training=False)[-1], x)


REUSING = TransformerConfig(dim=16, layers=4, heads=4, ffn_dim=32, reuse_attention=True)


def test_every_second_layer_attends_with_the_map_of_the_layer_before():
    """Written out: one softmax for two layers."""
    layers = make_layers(REUSING).eval()
    x, lengths = torch.randn(2, 9, 16), torch.tensor([9, 5])
    valid = torch.arange(9) < lengths[:, None]
    found = run_layers(layers, x, valid[:, None, None], REUSING, training=False)
    weights = torch.empty(0)
    for index, layer in enumerate(layers):
        y = layer.attention_norm(x)
        out = torch.zeros(2, 9, 16)
        if index % 2 == 0:
            query, key = layer.query(y), layer.key(y)
            scores = torch.stack([query[..., h : h + 4] @ key[..., h : h + 4].mT for h in range(0, 16, 4)])
            weights = (scores / 2).masked_fill(~valid[:, None], -torch.inf).softmax(3)  # (H, B, F, F)
        else:
            assert not hasattr(layer, "query") and not hasattr(layer, "key")
        for head in range(4):
            part = slice(4 * head, 4 * head + 4)
            out[..., part] = weights[head] @ layer.value(y)[..., part]
        x = x + layer.attention_out(out)
        x = x + layer.ffn_out(torch.nn.functional.gelu(layer.ffn_in(layer.ffn_norm(x))))
        torch.testing.assert_close(found[index + 1][valid], x[valid], atol=1e-5, rtol=1e-4)


def test_a_reused_map_is_the_same_with_activation_checkpointing():
    config = replace(REUSING, dropout=0.0, attention_dropout=0.0)
    layers, x = make_layers(config), torch.randn(2, 9, 16)
    gradients = []
    for checkpointed in (False, True):
        layers.zero_grad()
        states = run_layers(
            layers, x, None, replace(config, activation_checkpointing=checkpointed), training=True
        )
        states[-1].square().sum().backward()
        gradients.append([parameter.grad for parameter in layers.parameters()])
    assert all(torch.equal(*both) and both[0].any() for both in zip(*gradients, strict=True))


def test_a_dropped_layer_has_no_map_to_reuse(monkeypatch):
    """The next one takes that of the last layer that ran; where none has, it is left out as well."""
    config = replace(REUSING, dropout=0.0, attention_dropout=0.0, layerdrop=0.5)
    layers, x = make_layers(config), torch.randn(1, 9, 16)
    for dropped, unchanged in (((0,), (0, 1)), ((2,), (2,)), ((0, 2), (0, 1, 2, 3))):
        drawn = iter(torch.tensor(0.0 if index in dropped else 0.9) for index in range(4))
        monkeypatch.setattr(torch, "rand", lambda *_, drawn=drawn: next(drawn))
        states = run_layers(layers, x, None, config, training=True)
        assert tuple(i for i in range(4) if torch.equal(states[i], states[i + 1])) == unchanged


def test_one_layer_has_no_map_to_reuse():
    with pytest.raises(ValueError, match="reuse_attention needs 2 layers at least"):
        replace(REUSING, layers=1)
