"""Goldens of the reference SPIRAL (its README says how they were made), and our names of its weights."""

import re
from typing import Any

import torch
from torch import Tensor

from distill.spiral.encoder import SpiralConfig, SpiralEncoder
from tests.paths import GOLDEN

_PARTS = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "attention_out",
    "self_attn_layer_norm": "attention_norm",
    "final_layer_norm": "ffn_norm",
    "layer_norm": "norm",
    "fc1": "ffn_in",
    "fc2": "ffn_out",
    "pos_conv.0.weight_g": "position.conv.parametrizations.weight.original0",
    "pos_conv.0.weight_v": "position.conv.parametrizations.weight.original1",
    "pos_conv.0.bias": "position.conv.bias",
    "conv.conv": "conv",
}
_OTHERS = {
    "predictor.conv_layers": "predictor.convolutions",
    "predictor.output_proj": "predictor.linear",
    "projector.output_proj": "projection.linear",
    "conv.conv": "conv",
}
BLOCK1 = 4
"""Modules of the first block: three convolutions and a transformer."""


def golden(name: str) -> dict[str, Any]:
    """A file of tests/golden/spiral."""
    return torch.load(GOLDEN / "spiral" / f"{name}.pt", weights_only=True)


def ours(name: str) -> str:
    """Our name of a weight, within `SpiralPretraining`: the encoder's modules in a row become two blocks."""
    name = name.removeprefix("target_")
    found = re.fullmatch(r"feature_encoder\.block_modules\.(\d+)\.(.*)", name)
    if found is None:
        return _replaced(name, _OTHERS) if name != "mask_emb" else "encoder.mask_embedding"
    module, rest = int(found[1]), _replaced(found[2], _PARTS)
    block, number = divmod(module, BLOCK1)
    place = f"convs.{number}." if rest.startswith("conv.") or module not in (3, 6) else ""
    return f"encoder.block{block + 1}.{place}{rest}"


def _replaced(name: str, parts: dict[str, str]) -> str:
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name


def encoder_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights in our names."""
    found = {ours(name): value for name, value in state.items()}
    return {k.removeprefix("encoder."): v for k, v in found.items() if k.startswith("encoder.")}


def config_of(described: dict[str, Any], **changes: Any) -> SpiralConfig:
    """The small configurations of the goldens."""
    first, second = described["blocks"]
    return SpiralConfig(
        bands=described["features"],
        block1_conv_layers=tuple(tuple(conv[:3]) for conv in first["conv"]),
        block1_layers=first["layers"],
        block1_heads=first["heads"],
        block1_ffn_dim=first["ffn"],
        conv_layers=tuple(tuple(conv[:3]) for conv in second["conv"]),
        layers=second["layers"],
        heads=second["heads"],
        ffn_dim=second["ffn"],
        position_kernel=described["pos_kernel"],
        position_groups=described["pos_groups"],
        **changes,
    )


def encoder_of(found: dict[str, Any], **changes: Any) -> SpiralEncoder:
    """The encoder of a golden, in eval mode."""
    encoder = SpiralEncoder(config_of(found["config"], **changes)).eval()
    encoder.load_state_dict(encoder_state(found["state"]))
    return encoder


def close(ours: Tensor, theirs: Tensor, tolerance: float = 2e-5) -> None:
    """Largest deviation, relative to the largest value."""
    worst = (ours - theirs).abs().max() / theirs.abs().max()
    assert worst < tolerance, float(worst)
