"""Names in numbers.

Random choices that depend on names alone, whatever the order, the batch, the rank or the worker; and what the
features of a model depend on beside its weights.
"""

from __future__ import annotations

import hashlib
from typing import Any

from distill.hubert import HubertConfig


def hash_number(*parts: Any) -> int:
    """A number in [0, 2 ** 64) that depends on nothing but `parts`."""
    return int.from_bytes(hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest())


def beyond_weights(config: HubertConfig) -> str:
    """What decides the features of a model and is not seen in its weights; "" where it is as in HuBERT base.

    It belongs into the identity of everything that is made of features: the same weights give others when
    they are read with other strides or heads, with or without normalising the waveforms. Pre-norm models are
    named since features of their last layer were once taken before the final norm.
    """
    found = {
        "strides": tuple(stride for _, _, stride in config.conv_layers),
        "head_dim": config.dim // config.heads,
        "normalize_input": config.normalize_input,
        "last_after_norm": config.pre_norm,
    }
    usual = {
        "strides": tuple(stride for _, _, stride in HubertConfig().conv_layers),
        "head_dim": 64,
        "normalize_input": False,
        "last_after_norm": False,
    }
    return " ".join(f"{name}={value}" for name, value in found.items() if value != usual[name])
