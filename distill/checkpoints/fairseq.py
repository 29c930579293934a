"""HuBERT and wav2vec 2.0 checkpoints of fairseq: pre-trained, fine-tuned with CTC, s3prl's conversions.

Layouts: `model` with `cfg` (fairseq since 2021) or `args` (before); `model_weight` with `model_cfg` and
`task_cfg` (what s3prl's hub downloads). The shapes come from the weights, the rest from the configuration.
`fairseq_writing` writes the first of these.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.checkpoints import architecture, safe_pickle, weights
from distill.errors import CheckpointError, listed
from distill.hubert import HubertConfig

_POSITION = "position.conv.parametrizations.weight"
_LAYER = {
    "self_attn.q_proj": "query",
    "self_attn.k_proj": "key",
    "self_attn.v_proj": "value",
    "self_attn.out_proj": "attention_out",
    "self_attn_layer_norm": "attention_norm",
    "fc1": "ffn_in",
    "fc2": "ffn_out",
    "final_layer_norm": "ffn_norm",
}
NAMES = {
    "feature_extractor.conv_layers.#.0": "cnn.#.conv",
    "feature_extractor.conv_layers.#.2": "cnn.#.norm",  # group norm
    "feature_extractor.conv_layers.#.2.1": "cnn.#.norm",  # layer norm, between two transpositions
    "layer_norm": "projection_norm",
    "post_extract_proj": "projection",
    "encoder.pos_conv.0": "position.conv",
    "encoder.pos_conv.0.weight_g": f"{_POSITION}.original0",
    "encoder.pos_conv.0.weight_v": f"{_POSITION}.original1",
    "encoder.pos_conv.0.parametrizations.weight": _POSITION,
    "encoder.layer_norm": "norm",
    **{f"encoder.layers.#.{theirs}": f"layers.#.{ours}" for theirs, ours in _LAYER.items()},
}
SHAPES = {
    "encoder_layers": "layers",
    "encoder_embed_dim": "dim",
    "encoder_ffn_embed_dim": "ffn_dim",
    "conv_pos": "position_kernel",
    "conv_pos_groups": "position_groups",
}
"""Values of the configuration that the weights decide as well, and our names for them."""
_HEAD = ("mask_emb", "final_proj.weight", "final_proj.bias", "label_embs_concat")
_LONGEST_LAYERS, _MOST_LAYERS = 2000, 100
"""Letters and convolutions of `conv_feature_layers`: a HuBERT has 49 and 7."""
_FINE_TUNED_PREFIX = "w2v_encoder.w2v_model."
_MODELS = ("hubert", "wav2vec2", "wav2vec_ctc", "wav2vec_seq2seq")
_WAV2VEC2_HEAD = ("quantizer.", "project_q.", "final_proj.", "target_glu.")
"""The pre-training head of wav2vec 2.0; its encoder is that of HuBERT."""


def matches(contents: Any) -> bool:
    """Whether the contents of a torch file are laid out as fairseq or s3prl's conversions do."""
    return isinstance(contents, dict) and (
        ("model" in contents and ("cfg" in contents or "args" in contents)) or "model_weight" in contents
    )


def read(path: str | Path) -> tuple[HubertConfig, dict[str, Tensor], dict[str, Any]]:
    """A HuBERT or wav2vec 2.0 of fairseq.

    Args:
        path: the .pt file.

    Returns:
        The architecture, the encoder's weights in our names, and where they come from (plain values).

    Raises:
        CheckpointError: if the file is unreadable, malicious, or holds another model.
    """
    return parse(safe_pickle.load(path), path)


def parse(contents: Any, path: object) -> tuple[HubertConfig, dict[str, Tensor], dict[str, Any]]:
    """`read` for contents that are loaded already."""
    model_cfg, task_cfg, tensors = _sections(contents, path)
    name = str(model_cfg.get("_name") or model_cfg.get("arch") or "hubert")
    if not name.startswith(_MODELS):
        raise CheckpointError(
            f"{path} holds a {listed([name])} model of fairseq, expected a HuBERT or wav2vec 2.0"
        )
    fine_tuned = any(key.startswith(_FINE_TUNED_PREFIX) for key in tensors)
    if fine_tuned:
        model_cfg = _pretrained_cfg(model_cfg)
        tensors = {key.removeprefix(_FINE_TUNED_PREFIX): tensor for key, tensor in tensors.items()}
    state, unknown = weights.rename(tensors, NAMES)
    own_head = () if name.startswith("hubert") else _WAV2VEC2_HEAD
    known = ("w2v_encoder.proj.", *own_head)
    unknown = [key for key in unknown if key not in _HEAD and not key.startswith(known)]
    if unknown:
        raise CheckpointError(
            f"{path} is not a HuBERT of fairseq: it holds {listed(unknown)}, "
            "expected a HuBERT's weights and nothing else"
        )
    if not any(key.startswith("projection.") for key in state) and "norm.weight" in state:
        add_identity_projection(state)
    layers = parse_layers(model_cfg.get("conv_feature_layers"), path)
    strides = None if layers is None else [stride for _, _, stride in layers]
    shape = architecture.architecture(state, strides, path)
    architecture.compare(model_cfg | {"conv_feature_layers": layers}, in_fairseq_terms(shape), path, "'cfg'")
    config = architecture.make_hubert_config(shape | settings(model_cfg, task_cfg, shape, path), path)
    updates = _updates(contents)
    provenance = {"model": name, "fine_tuned": fine_tuned}
    provenance |= {} if updates is None else {"num_updates": updates}
    return config, state, provenance | _own_provenance(contents)


def read_head(path: str | Path) -> dict[str, Tensor] | None:
    """The pre-training head, for continuing masked prediction.

    Args:
        path: the .pt file.

    Returns:
        `mask_emb` (D,), `final_proj.weight` (P, D), `final_proj.bias` (P,) and `label_embs_concat` (K, P);
        None for a model without these (fine-tuned).

    Raises:
        CheckpointError: as `read`.
    """
    return parse_head(safe_pickle.load(path), path)


def parse_head(contents: Any, path: object) -> dict[str, Tensor] | None:
    """`read_head` for contents that are loaded already."""
    _, _, tensors = _sections(contents, path)
    head = {name: tensors.get(name) for name in _HEAD}
    if any(value is None for value in head.values()):
        return None
    copies = {name: tensor.detach().float().clone() for name, tensor in head.items() if tensor is not None}
    weights.check_finite(copies, path)
    return copies


@dataclass(frozen=True)
class Head:
    """A pre-training head with the meaning of its labels."""

    weights: dict[str, Tensor]
    """As `read_head` returns them."""
    dictionaries: tuple[dict[str, Any], ...] = ()
    """The state of fairseq's dictionary for each set of labels; (): one set, special symbols and clusters."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What else the file's `cfg` said: section (model, task, criterion, ...) -> name -> plain value."""


def parse_head_and_labels(contents: Any, path: object) -> Head | None:
    """The head of a file that is loaded already, for writing it again; None if there is none."""
    tensors = parse_head(contents, path)
    if tensors is None:
        return None
    task_state = contents.get("task_state")
    found = task_state.get("dictionaries") if isinstance(task_state, dict) else None
    states = [safe_pickle.plain(getattr(entry, "state", None)) for entry in found or ()]
    dictionaries = tuple(states) if all(isinstance(state, dict) for state in states) else ()
    return Head(tensors, dictionaries, _configuration(contents))


def _configuration(contents: dict[str, Any]) -> dict[str, Any]:
    """Every section of the configuration, plain; {} where it is one flat `args`.

    Left out is what `safe_pickle.plain` has only a name for.
    """
    if "model_weight" in contents:
        sections = {name: contents.get(f"{name}_cfg") for name in ("model", "task")}
    else:
        sections = contents.get("cfg") or {}
    plain = safe_pickle.plain(sections)
    return {
        section: {name: value for name, value in values.items() if not _is_unknown(value)}
        for section, values in (plain.items() if isinstance(plain, dict) else ())
        if isinstance(values, dict)
    }


def _is_unknown(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"<\w+(\.\w+)+>", value) is not None


def _sections(contents: Any, path: object) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """(model configuration, task configuration, weights) of any of the layouts."""
    if not matches(contents):
        found = listed(contents) if isinstance(contents, dict) else type(contents).__name__
        raise CheckpointError(f"{path} holds {found}, expected fairseq's 'model' and 'cfg' or 'args'")
    if "model_weight" in contents:
        model, task, tensors = (contents.get(key) for key in ("model_cfg", "task_cfg", "model_weight"))
    else:
        cfg = safe_pickle.plain(contents.get("cfg")) or {}
        args = contents.get("args")  # one flat namespace for everything
        model, task = (cfg.get("model"), cfg.get("task")) if cfg else (args, args)
        tensors = contents["model"]
    model, task = safe_pickle.plain(model), safe_pickle.plain(task)
    if not isinstance(model, dict) or not isinstance(tensors, Mapping):
        raise CheckpointError(
            f"{path} has no model configuration ('cfg' or 'args'): the number of attention heads is unknown"
        )
    return model, task if isinstance(task, dict) else {}, weights.unwrapped(tensors, path)


def _pretrained_cfg(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the model that was fine-tuned, which the fine-tuned one's keeps in `w2v_args`."""
    original = model_cfg.get("w2v_args")
    if not isinstance(original, dict):
        return model_cfg
    inner = original.get("model", original)  # since 2021 a complete cfg, before a flat namespace
    return inner if isinstance(inner, dict) else model_cfg


def settings(
    model_cfg: dict[str, Any], task_cfg: dict[str, Any], shape: dict[str, Any], path: object
) -> dict[str, Any]:
    """The fields of `HubertConfig` that weights do not tell, with fairseq's defaults.

    Args:
        model_cfg: says heads, norms and dropout.
        task_cfg: says whether waveforms are normalised.
        shape: as `architecture.architecture`.
        path: the file, for messages.

    Raises:
        CheckpointError: if essential values are missing, or it uses other activations.
    """
    if "encoder_attention_heads" not in model_cfg:
        raise CheckpointError(
            f"{path} does not say how many attention heads it has (encoder_attention_heads)"
        )
    if model_cfg.get("activation_fn", "gelu") != "gelu":
        raise CheckpointError(
            f"{path} uses {model_cfg['activation_fn']} activations, expected gelu as in HuBERT"
        )
    return {
        "heads": model_cfg["encoder_attention_heads"],
        "pre_norm": model_cfg.get("layer_norm_first", False),
        "normalize_input": task_cfg.get("normalize", shape["conv_norm"] == "layer"),
        "dropout": model_cfg.get("dropout", 0.1),
        "attention_dropout": model_cfg.get("attention_dropout", 0.1),
        "activation_dropout": model_cfg.get("activation_dropout", 0.0),
        "projection_dropout": model_cfg.get("dropout_input", 0.0),
        "layerdrop": model_cfg.get("encoder_layerdrop", 0.0),
        "cnn_grad_scale": model_cfg.get("feature_grad_mult", 1.0),
    }


def in_fairseq_terms(shape: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights decide, as fairseq's configuration says it."""
    return {
        **{theirs: shape[ours] for theirs, ours in SHAPES.items()},
        "extractor_mode": "default" if shape["conv_norm"] == "group" else "layer_norm",
        "conv_feature_layers": shape["conv_layers"],
        "conv_bias": shape["conv_bias"],
    }


def parse_layers(text: Any, path: object) -> list[tuple[int, int, int]] | None:
    """(channels, kernel, stride) of each convolution.

    Args:
        text: such as "[(512,10,5)] + [(512,3,2)] * 4"; None gives None.
        path: the file, for the message.

    Raises:
        CheckpointError: if it is anything else.
    """
    if text is None:
        return None
    try:
        if len(str(text)) > _LONGEST_LAYERS:
            raise ValueError("it is too long")
        return _layer_list(ast.parse(str(text).strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise CheckpointError(
            f"{path}: conv_feature_layers is {str(text)[:80]!r}, expected a list of "
            "(channels, kernel, stride)"
        ) from None


def _layer_list(node: ast.expr) -> list[tuple[int, int, int]]:
    """Sums and multiples of lists of triples of numbers, and nothing else."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _layer_list(node.left) + _layer_list(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        number_first = isinstance(node.left, ast.Constant)
        repeated, times = (node.right, node.left) if number_first else (node.left, node.right)
        count = ast.literal_eval(times)
        layers = _layer_list(repeated)
        if not isinstance(count, int) or not 0 <= count * max(len(layers), 1) <= _MOST_LAYERS:
            raise ValueError(f"{count!r} repetitions")
        return layers * count
    layers = ast.literal_eval(node)
    if not isinstance(layers, list):
        raise ValueError(f"{layers!r} is not a list")
    for layer in layers:
        if len(layer) != 3 or any(type(value) is not int or value < 1 for value in layer):
            raise ValueError(f"{layer!r} is not three positive numbers")
    return layers


def add_identity_projection(state: dict[str, Tensor]) -> None:
    """Ours always has a projection; fairseq has none where CNN and transformer are equally wide."""
    dim = state["norm.weight"].shape[0]
    state["projection.weight"] = state["norm.weight"].new_zeros(dim, dim).fill_diagonal_(1.0)
    state["projection.bias"] = state["norm.weight"].new_zeros(dim)


def _updates(contents: dict[str, Any]) -> int | None:
    """How many updates the model was trained for, if the file says so."""
    history = safe_pickle.plain(contents.get("optimizer_history"))
    last = history[-1] if isinstance(history, list) and history else None
    updates = last.get("num_updates") if isinstance(last, dict) else None
    return updates if isinstance(updates, int) else None


def _own_provenance(contents: dict[str, Any]) -> dict[str, Any]:
    """What `fairseq_writing` noted down."""
    extra = contents.get("extra_state")
    own = safe_pickle.plain(extra.get("distill")) if isinstance(extra, dict) else None
    return own if isinstance(own, dict) else {}
