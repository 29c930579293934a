"""WavLM as Microsoft published it (Chen et al. 2022): `model`, the weights, and `cfg`, one flat dict.

The names are those of fairseq, with a relative position bias in the first layer and gates in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from distill.checkpoints import architecture, fairseq, safe_pickle, weights
from distill.errors import CheckpointError
from distill.hubert import HubertConfig

_BIAS, _GATE = "relative_attention_bias", "grep_"
_NAMES = fairseq.NAMES | {
    "encoder.layers.#.self_attn.grep_linear": "layers.#.gate",
    "encoder.layers.#.self_attn.grep_a": "layers.#.gate_scale",
    f"encoder.layers.0.self_attn.{_BIAS}.weight": "relative.embedding.weight",
}
_HEAD = ("mask_emb", "final_proj.", "label_embs_concat")
_EXPECTED = "expected WavLM base, base+ or large as Microsoft published them"
_DISTANCE = 1280
"""Where `cfg` does not say max_distance; published models say 800."""


def matches(contents: Any) -> bool:
    """Whether the contents of a torch file are a WavLM's, or say so; fairseq's layout looks the same."""
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), Mapping):
        return False
    cfg = contents.get("cfg")
    named = any(_BIAS in str(key) or _GATE in str(key) for key in contents["model"])
    return cfg is not None and (named or (isinstance(cfg, Mapping) and "relative_position_embedding" in cfg))


def parse(contents: Any, path: object) -> tuple[HubertConfig, dict[str, Tensor], dict[str, Any]]:
    """A WavLM.

    Args:
        contents: of the .pt file.
        path: the file, for messages.

    Returns:
        The architecture, the encoder's weights in our names, and where they come from (plain values).

    Raises:
        CheckpointError: if it is another model, or of another kind than the published ones.
    """
    cfg = _settings(contents, path)
    tensors = weights.unwrapped(contents["model"], path)
    for part, what in {
        _BIAS: "relative position bias (relative_position_embedding)",
        _GATE: "gates on its relative position bias (gru_rel_pos)",
    }.items():
        if not any(part in key for key in tensors):
            raise CheckpointError(f"{path} is laid out as a WavLM, but has no {what}: {_EXPECTED}")
    state = weights.renamed(tensors, _NAMES, path, of="a WavLM", besides=_HEAD, hint=f"; {_EXPECTED}")
    if not any(key.startswith("projection.") for key in state) and "norm.weight" in state:
        fairseq.add_identity_projection(state)
    layers = fairseq.parse_layers(cfg.get("conv_feature_layers"), path)
    strides = None if layers is None else [stride for _, _, stride in layers]
    shape = architecture.architecture(state, strides, path)
    found = fairseq.in_fairseq_terms(shape) | {"num_buckets": shape["relative_buckets"]}
    architecture.compare(cfg | {"conv_feature_layers": layers}, found, path, "'cfg'")
    fields = fairseq.settings(cfg, cfg, shape, path) | {
        "relative_distance": cfg.get("max_distance", _DISTANCE)
    }
    return architecture.make_hubert_config(shape | fields, path), state, {"model": "wavlm"}


def _settings(contents: dict[str, Any], path: object) -> dict[str, Any]:
    """The flat configuration; that of fairseq's own training is in sections."""
    cfg = safe_pickle.plain(contents["cfg"])
    if not isinstance(cfg, dict):
        raise CheckpointError(f"{path}: its 'cfg' is a {type(cfg).__name__}, expected a dict; {_EXPECTED}")
    sections = [cfg.get(name) for name in ("task", "model")]
    nested = [section for section in sections if isinstance(section, dict)]
    return {name: value for section in nested or [cfg] for name, value in section.items()}
