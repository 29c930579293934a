"""s3prl's Distiller (DistilHuBERT, Chang et al. 2022): `Distiller` holds the weights, `Config` the settings.

Stock s3prl loads what is written here with its upstream `distiller_local`. It pads without masking its group
norm, so features are equal for one utterance or equal lengths.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.checkpoints import architecture, fairseq, fairseq_writing, files, safe_pickle, weights
from distill.errors import CheckpointError
from distill.hubert import HubertConfig
from distill.student import LayerHeads, PredictionHeads, Student

_FIXED = {
    "task_emb_type": "expand-last",
    "out_layer_type": "expand-last",
    "attention_type": "original",
    "activation_fn": "gelu",
}
"""Settings of the published model, which are s3prl's defaults too; with others it is another architecture."""
_LAYERS = "extractor_conv_feature_layers"
_EXPAND, _PER_TARGET = "output_layer.0", "output_layer.2"


def matches(contents: Any) -> bool:
    """Whether the contents of a torch file are laid out as s3prl's pre-training writes them."""
    return isinstance(contents, dict) and {"Distiller", "Config"} <= contents.keys()


def parse(contents: Mapping[str, Any], path: object) -> tuple[Student, dict[str, Any]]:
    """A Distiller that is loaded already.

    Args:
        contents: of the file.
        path: the file, for messages.

    Returns:
        The student, in eval mode, and where it comes from (plain values).

    Raises:
        CheckpointError: if it is damaged, or of another architecture than DistilHuBERT's.
    """
    settings = safe_pickle.plain(contents["Config"])
    settings = settings.get("distiller") if isinstance(settings, dict) else None
    if not isinstance(settings, dict) or not isinstance(contents["Distiller"], Mapping):
        raise CheckpointError(
            f"{path} is not a complete Distiller of s3prl: expected a 'distiller' in its 'Config'"
        )
    for key, expected in _FIXED.items():
        if settings.get(key, expected) != expected:
            raise CheckpointError(
                f"{path} is a Distiller of s3prl with {key} {settings[key]!r}, expected {expected!r} as in "
                "DistilHuBERT"
            )
    tensors = weights.unwrapped(contents["Distiller"], path)
    heads = _read_heads(tensors, path)
    state = weights.renamed(tensors, fairseq.NAMES, path, of="DistilHuBERT", besides=("output_layer.",))
    if "projection.weight" not in state and "norm.weight" in state:
        fairseq.add_identity_projection(state)
    layers = fairseq.parse_layers(settings.get(_LAYERS), path)
    strides = None if layers is None else [stride for _, _, stride in layers]
    shape = architecture.architecture(state, strides, path)
    n_targets, target_dim = heads["heads.weight"].shape[:2]
    found = _in_s3prl_terms(shape) | {"n_tasks": n_targets, "final_dim": target_dim}
    architecture.compare(settings | {_LAYERS: layers}, found, path, "'Config'")
    config = architecture.make_hubert_config(shape | _settings(settings), path)
    targets = settings.get("pred_layer_id", list(range(1, n_targets + 1)))  # the default of s3prl
    if not isinstance(targets, list) or [type(layer) for layer in targets] != [int] * n_targets:
        raise CheckpointError(f"{path}: pred_layer_id is {targets!r}, but there are {n_targets} heads")
    state = {f"encoder.{key}": tensor for key, tensor in state.items()} | heads
    student = weights.fill(lambda: Student(config, targets, target_dim), state, path)
    own, step = contents.get("distill"), contents.get("Step")
    provenance = {"step": step} if isinstance(step, int) else {}
    return student, provenance | (own if isinstance(own, dict) else {})


def _in_s3prl_terms(shape: Mapping[str, Any]) -> dict[str, Any]:
    """What the weights decide, as s3prl's configuration says it."""
    return {
        **{theirs: shape[ours] for theirs, ours in fairseq.SHAPES.items()},
        "extractor_mode": "default" if shape["conv_norm"] == "group" else "layer_norm",
        _LAYERS: shape["conv_layers"],
    }


def _settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `HubertConfig` that weights do not tell, with s3prl's defaults."""
    return {
        "heads": settings.get("encoder_attention_heads", 12),
        "pre_norm": settings.get("layer_norm_first", False),
        "dropout": settings.get("dropout", 0.1),
        "attention_dropout": settings.get("attention_dropout", 0.1),
        "activation_dropout": settings.get("activation_dropout", 0.1),
        "layerdrop": settings.get("encoder_layerdrop", 0.0),
        "cnn_grad_scale": settings.get("feature_grad_mult", 1.0),
    }


def _read_heads(tensors: Mapping[str, Any], path: object) -> dict[str, Tensor]:
    """The prediction heads under our names; s3prl has a plain linear layer where there is only one."""
    try:
        expand = {f"heads.expand.{leaf}": tensors[f"{_EXPAND}.{leaf}"] for leaf in ("weight", "bias")}
        if f"{_PER_TARGET}.layer.weight" in tensors:
            weight = tensors[f"{_PER_TARGET}.layer.weight"].T[None]  # (D_out, D_in) -> (1, D_in, D_out)
            bias = tensors[f"{_PER_TARGET}.layer.bias"][None, None]
        else:
            weight = tensors[f"{_PER_TARGET}.weight"]  # (N, D_in, D_out)
            bias = tensors[f"{_PER_TARGET}.bias"][0].transpose(0, 1)  # (1, 1, N, D_out) -> (N, 1, D_out)
    except KeyError as error:
        raise CheckpointError(
            f"{path} has no complete prediction heads: {error.args[0]} is missing"
        ) from None
    except (AttributeError, IndexError, RuntimeError):
        raise CheckpointError(f"{path}: its prediction heads are not those of DistilHuBERT") from None
    if weight.dim() != 3 or weight.shape[1] != weight.shape[2]:
        raise CheckpointError(
            f"{path}: the weight of its prediction heads is {tuple(weight.shape)}, expected (targets, D, D) "
            "as in DistilHuBERT"
        )
    return {**expand, "heads.weight": weight, "heads.bias": bias}


def write(student: Student, path: Path, provenance: dict[str, Any] | None = None) -> Path:
    """Write a checkpoint for s3prl's upstream `distiller_local`.

    Args:
        student: with its heads.
        path: the .ckpt file.
        provenance: plain values, kept under "distill".

    Returns:
        The path.

    Raises:
        CheckpointError: if s3prl's Distiller cannot hold the student, or the file cannot be written.
    """
    config = student.encoder.config
    if isinstance(student.heads, LayerHeads):
        raise CheckpointError(
            "this student cannot be exported to s3prl: it predicts layer from layer, and s3prl's Distiller "
            "predicts all from the last"
        )
    for field, what in {
        "normalize_input": "does not normalise waveforms",
        "conv_bias": "has no biases in its convolutions",
        "projection_norm": "has no layer norm before its projection",
    }.items():
        if getattr(config, field):
            raise CheckpointError(
                f"this student cannot be exported to s3prl: its {field} is on, and s3prl's Distiller {what}"
            )
    if config.hop != (usual := HubertConfig().hop):
        raise CheckpointError(
            f"this student cannot be exported to s3prl: its frames are {config.hop} samples apart, and "
            f"s3prl's Distiller says {usual} of every model"
        )
    state = fairseq_writing.to_fairseq_names(student.encoder.state_dict(), config, "s3prl")
    state |= _write_heads(student)
    contents = {
        "Distiller": {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()},
        "Config": {"distiller": _describe(student)},
        "distill": provenance or {},
    }
    return files.write_torch(path, contents)


def _write_heads(student: Student) -> dict[str, Tensor]:
    heads = student.heads
    assert isinstance(heads, PredictionHeads)
    renamed = {f"{_EXPAND}.weight": heads.expand.weight, f"{_EXPAND}.bias": heads.expand.bias}
    if heads.n_targets == 1:
        single = {
            f"{_PER_TARGET}.layer.weight": heads.weight[0].T,
            f"{_PER_TARGET}.layer.bias": heads.bias[0, 0],
        }
        return renamed | single
    return renamed | {
        f"{_PER_TARGET}.weight": heads.weight,
        f"{_PER_TARGET}.bias": heads.bias.transpose(0, 1)[None],  # (N, 1, D) -> (1, 1, N, D)
    }


def _describe(student: Student) -> dict[str, Any]:
    """The student in the words of s3prl's `DistillerConfig`."""
    config = student.encoder.config
    return {
        "extractor_mode": "default" if config.conv_norm == "group" else "layer_norm",
        "extractor_conv_feature_layers": fairseq_writing.conv_expression(config),
        "extractor_dropout": 0.0,
        "feature_grad_mult": config.cnn_grad_scale,
        "conv_pos": config.position_kernel,
        "conv_pos_groups": config.position_groups,
        "encoder_layers": config.layers,
        "encoder_embed_dim": config.dim,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_attention_heads": config.heads,
        "layer_norm_first": config.pre_norm,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "encoder_layerdrop": config.layerdrop,
        "final_dim": student.target_dim,
        "out_layer_inter_dim": student.target_dim,
        "n_tasks": len(student.targets),
        "pred_layer_id": list(student.targets),
        "loss_type": "l1",
        "feat_pen_loss": 0.0,
        "cosine_loss": 1.0,
        "init_teacher_conv_layers": True,
        "init_teacher_encoder_layers": True,
        **_FIXED,
    }
