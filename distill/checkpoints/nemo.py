"""SPIRAL checkpoints of the reference implementation, a fork of NeMo: pre-trained or fine-tuned.

Lightning files whose `state_dict` has everything, and whose `hyper_parameters` the architecture. What is
read is the student's encoder: `st2vec_encoder.feature_encoder` of pre-trained models,
`encoder.feature_encoder` of fine-tuned ones. Teacher, projections, predictor and classifier stay behind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.checkpoints import architecture, torch_files, weights
from distill.checkpoints.safe_pickle import plain
from distill.errors import CheckpointError, listed
from distill.spiral.encoder import SpiralConfig
from distill.waveforms import SAMPLE_RATE
from distill.waveforms.logmel import STEP, constants

_PREFIXES = ("st2vec_encoder.", "encoder.")
_MODULES = "feature_encoder.block_modules."
_LEFT_OUT = ("target_feature_encoder.", "projector.", "target_projector.", "predictor.", "quantizer.")
"""Of pre-training, beside the student's encoder."""
_CONVOLUTION = {"conv.conv": "conv", "norm": "norm"}
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
_TRANSFORMER = {
    "pos_conv.0": "position.conv",
    "pos_conv.0.weight_g": "position.conv.parametrizations.weight.original0",
    "pos_conv.0.weight_v": "position.conv.parametrizations.weight.original1",
    "layer_norm": "norm",
    **{f"layers.#.{theirs}": f"layers.#.{ours}" for theirs, ours in _LAYER.items()},
}
_FRONT_END: dict[str, tuple[Any, ...]] = {
    "sample_rate": (SAMPLE_RATE,),
    "window_size": (2 * STEP / SAMPLE_RATE,),
    "window_stride": (STEP / SAMPLE_RATE,),
    "n_window_size": (None,),
    "n_window_stride": (None,),
    "window": ("hann",),
    "normalize": ("per_feature",),
    "n_fft": (None, 512),
    "preemph": (0.97,),
    "lowfreq": (0,),
    "highfreq": (None, SAMPLE_RATE // 2),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2.0**-24,),
    "frame_splicing": (1,),
    "mag_power": (2.0,),
    "normalize_time_domain": (True,),
}
"""The features that `distill.waveforms.logmel` computes, in the reference's words."""
_FIXED_CONVOLUTION: dict[str, tuple[Any, ...]] = {
    "norm_type": ("ln",),
    "dilation": (1,),
    "padding": ("same",),
    "bias": (True,),
}
_FIXED_TRANSFORMER: dict[str, tuple[Any, ...]] = {"activation_fn": ("gelu",), "layer_norm_first": (True,)}
_FIXED_ENCODER: dict[str, tuple[Any, ...]] = {
    "use_conv_mask": (True,),
    "use_tf_pad": (True,),
    "conv2d_block": (None,),
    "ln_eps": (1e-5,),
}


def mentioned(path: Path) -> bool:
    """Whether a zip of torch.save names weights of the reference; nothing is unpickled for it."""
    try:
        return _MODULES.encode() in (torch_files.Records(path).read("data.pkl") or b"")
    except Exception:  # whatever a damaged or hostile archive makes Python's reader raise
        return False


def matches(contents: Any) -> bool:
    """Whether the contents of a torch file are laid out as the reference's trainer does."""
    state = contents.get("state_dict") if isinstance(contents, dict) else None
    return isinstance(state, Mapping) and _prefix(state) is not None


def parse(contents: Any, path: object) -> tuple[SpiralConfig, dict[str, Tensor], dict[str, Any]]:
    """A checkpoint of the reference that is loaded already.

    Returns:
        The architecture, the encoder's weights in our names, and where they come from (plain values). Dropout
        is that of block 2's transformer.

    Raises:
        CheckpointError: if it holds another model, or one that `SpiralEncoder` does not compute.
    """
    tensors = weights.unwrapped(contents["state_dict"], path)
    prefix = _prefix(tensors)
    assert prefix is not None  # `matches`
    tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    section = _section(plain(contents.get("hyper_parameters")), prefix, path)
    config = _config(section, path)
    _check_filters(tensors, config, path)
    state, unknown = _renamed(tensors, config)
    if unknown:
        raise CheckpointError(f"{path} holds weights that SPIRAL's encoder does not have: {listed(unknown)}")
    architecture.check_depth(config, state, path)
    step = contents.get("global_step")
    provenance: dict[str, Any] = {"model": "SPIRAL", "fine_tuned": prefix == "encoder."}
    return config, state, provenance | ({"step": step} if type(step) is int else {})


def _prefix(state: Mapping[Any, Any]) -> str | None:
    """What stands before the names of the student's encoder; None if it is not there."""
    return next((p for p in _PREFIXES if any(str(key).startswith(p + _MODULES) for key in state)), None)


def _section(hyper_parameters: Any, prefix: str, path: object) -> dict[str, Any]:
    """The description of the encoder."""
    found = hyper_parameters if isinstance(hyper_parameters, dict) else {}
    for name in (prefix.removesuffix("."), "st2vec_encoder", "encoder"):
        section = found.get(name)
        if isinstance(section, dict) and isinstance(section.get("feature_encoder"), dict):
            return section
    raise CheckpointError(
        f"{path} does not say what its model is like (hyper_parameters, {prefix}feature_encoder): the number "
        "of attention heads is unknown"
    )


def _config(section: dict[str, Any], path: object) -> SpiralConfig:
    """The architecture."""
    front_end, encoder = section.get("preprocessor"), section["feature_encoder"]
    _check(front_end, _FRONT_END, "preprocessor", path)
    _check(encoder, _FIXED_ENCODER, "feature_encoder", path)
    blocks = encoder.get("conv_transformer_blocks")
    if not isinstance(blocks, list) or len(blocks) != 2:
        raise CheckpointError(f"{path}: conv_transformer_blocks is not a list of two blocks, as SPIRAL has")
    first, second = (_block(block, number, path) for number, block in enumerate(blocks, start=1))
    for name in ("position_kernel", "position_groups"):
        if first[name] != second[name]:
            raise CheckpointError(f"{path}: {name} is {first[name]} in block 1 and {second[name]} in block 2")
    own = {
        f"block1_{name}": first[name] for name in ("conv_layers", "layers", "heads", "ffn_dim", "layerdrop")
    }
    assert isinstance(front_end, dict)
    bands = front_end.get("features")
    config = architecture.make_config({"family": "spiral", **own, **second, "bands": bands}, path)
    assert isinstance(config, SpiralConfig)
    return config


def _block(block: Any, number: int, path: object) -> dict[str, Any]:
    """The fields of `SpiralConfig` that one block of the reference gives."""
    where = f"block {number}"
    try:
        transformer = block["transformer_block"]
        position, encoder = transformer["conv"], transformer["encoder"]
        convolutions = [
            _convolution(layer, f"{where}, convolution {index}", path)
            for index, layer in enumerate(block["conv_layers"])
        ]
        _check(transformer, {"use_pytorch_transformer": (False,)}, where, path)
        _check(encoder, _FIXED_TRANSFORMER, where, path)
        if encoder["embedding_dim"] != convolutions[-1][0]:
            raise CheckpointError(
                f"{path}: {where} has a transformer of {encoder['embedding_dim']} features behind a "
                f"convolution of {convolutions[-1][0]}"
            )
        return {
            "conv_layers": convolutions,
            "layers": encoder["encoder_layers"],
            "heads": encoder["num_attention_heads"],
            "ffn_dim": encoder["ffn_embedding_dim"],
            "layerdrop": encoder.get("encoder_layerdrop", 0.0),
            "dropout": encoder.get("dropout", 0.1),
            "attention_dropout": encoder.get("attention_dropout", 0.1),
            "activation_dropout": encoder.get("activation_dropout", 0.0),
            "position_kernel": position["conv_pos"],
            "position_groups": position["conv_pos_groups"],
        }
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        missing = f": {error.args[0]} is missing" if isinstance(error, KeyError) else ""
        raise CheckpointError(f"{path}: {where} is not described as the reference does{missing}") from None


def _convolution(layer: dict[str, Any], where: str, path: object) -> tuple[int, int, int]:
    """(channels, kernel, stride)."""
    kernel, stride = _one(layer["kernel_size"]), _one(layer["stride"])
    _check(layer | {"dilation": _one(layer.get("dilation", 1))}, _FIXED_CONVOLUTION, where, path)
    wanted = None if kernel == 1 else "relu"
    if layer.get("act_func") != wanted:
        raise CheckpointError(
            f"{path}: {where} of kernel {kernel} has the activation {_short(layer.get('act_func'))}, "
            f"expected {wanted}"
        )
    return layer["filters"], kernel, stride


def _one(value: Any) -> Any:
    """The number that a list of one holds."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _check(values: Any, wanted: Mapping[str, Sequence[Any]], where: str, path: object) -> None:
    """Refuse a description of something else than what we compute; what it leaves out is the default."""
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} does not describe its {where}")
    for name, choices in wanted.items():
        if name in values and values[name] not in choices:
            raise CheckpointError(
                f"{path}: {name} of its {where} is {_short(values[name])}, expected {choices[-1]!r}: another "
                "model than SPIRAL"
            )


def _short(value: Any) -> str:
    return ascii(value)[:40]


def _check_filters(tensors: Mapping[str, Any], config: SpiralConfig, path: object) -> None:
    """The mel filters and the window that the file keeps must be ours."""
    filters = tensors.get("wav2spec.featurizer.fb")
    if filters is None:
        return
    ours = constants(torch.device("cpu"), config.bands)[1].T[None]  # (1, bands, 257)
    if not isinstance(filters, Tensor) or filters.shape != ours.shape:
        raise CheckpointError(f"{path} has mel filters of another shape than {tuple(ours.shape)}")
    if not torch.allclose(filters.float(), ours, rtol=1e-3, atol=1e-6):
        raise CheckpointError(f"{path} has other mel filters than SPIRAL's (Slaney's, 0 to 8000 Hz)")


def _renamed(tensors: Mapping[str, Any], config: SpiralConfig) -> tuple[dict[str, Tensor], list[str]]:
    """The weights in our names, and those that are unknown."""
    names = {"mask_emb": "mask_embedding"}
    start = 0
    for block, convolutions in (("block1", config.block1_conv_layers), ("block2", config.conv_layers)):
        for index in range(len(convolutions)):
            place = f"{_MODULES}{start + index}"
            ours = f"{block}.convs.{index}"
            names |= {f"{place}.{theirs}": f"{ours}.{name}" for theirs, name in _CONVOLUTION.items()}
        start += len(convolutions)
        names |= {f"{_MODULES}{start}.{theirs}": f"{block}.{name}" for theirs, name in _TRANSFORMER.items()}
        start += 1
    known = {key: value for key, value in tensors.items() if not key.startswith((*_LEFT_OUT, "wav2spec."))}
    return weights.rename(known, names)
