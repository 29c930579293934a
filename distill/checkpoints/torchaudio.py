"""torchaudio: state dicts of its HuBERT and wav2vec 2.0 models, and its pre-trained bundles.

A state dict does not tell the number of attention heads. Those that we write have a JSON file next to them,
with the arguments of `torchaudio.models.wav2vec2_model`; without it only the published sizes are known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill.checkpoints import architecture, files, weights
from distill.errors import CheckpointError, first_line
from distill.hubert import HubertConfig, HubertEncoder

_POSITION = "position.conv.parametrizations.weight"
_TRANSFORMER = "encoder.transformer"
_LAYER = {
    "attention.q_proj": "query",
    "attention.k_proj": "key",
    "attention.v_proj": "value",
    "attention.out_proj": "attention_out",
    "layer_norm": "attention_norm",
    "feed_forward.intermediate_dense": "ffn_in",
    "feed_forward.output_dense": "ffn_out",
    "final_layer_norm": "ffn_norm",
}
_NAMES = {
    "feature_extractor.conv_layers.#.conv": "cnn.#.conv",
    "feature_extractor.conv_layers.#.layer_norm": "cnn.#.norm",
    "encoder.feature_projection.layer_norm": "projection_norm",
    "encoder.feature_projection.projection": "projection",
    f"{_TRANSFORMER}.pos_conv_embed.conv": "position.conv",
    f"{_TRANSFORMER}.pos_conv_embed.conv.parametrizations.weight": _POSITION,
    # Written are these, the old names of weight norm: every version of torch reads them.
    f"{_TRANSFORMER}.pos_conv_embed.conv.weight_g": f"{_POSITION}.original0",
    f"{_TRANSFORMER}.pos_conv_embed.conv.weight_v": f"{_POSITION}.original1",
    f"{_TRANSFORMER}.layer_norm": "norm",
    **{f"{_TRANSFORMER}.layers.#.{theirs}": f"layers.#.{ours}" for theirs, ours in _LAYER.items()},
}
_PREFIXES = ("wav2vec2.", "model.")  # of a HuBERTPretrainModel, of a bundle that normalises waveforms
_HEADS = ("aux.", "mask_generator.", "logit_generator.")
_ATTENTION_HEADS = {768: 12, 1024: 16, 1280: 16, 1920: 16}
"""By width: base, large (and XLSR 300M), extra large (and XLSR 1B), XLSR 2B."""
_WAVLM = (
    "is a WavLM in torchaudio's layout, which is not read: take microsoft/wavlm-base, "
    "microsoft/wavlm-base-plus or microsoft/wavlm-large of the Hugging Face hub, or Microsoft's .pt file"
)
_BUNDLE = re.compile(r"(HUBERT|WAV2VEC2|WAVLM|VOXPOPULI)_[A-Z0-9_]+")


def matches(contents: Any) -> bool:
    """Whether the contents of a torch file are a state dict of torchaudio."""
    return isinstance(contents, Mapping) and any(
        "encoder.feature_projection.projection." in str(key) for key in contents
    )


def is_bundle(source: str) -> bool:
    """Whether a source that is not an existing path reads as the name of a bundle, such as HUBERT_BASE."""
    return _BUNDLE.fullmatch(source) is not None


def parse(contents: Any, path: str | Path) -> tuple[HubertConfig, dict[str, Tensor], dict[str, Any]]:
    """A state dict of torchaudio that is loaded already.

    Args:
        contents: of the file.
        path: the file; its `.json` is read too, if there is one that we wrote.

    Returns:
        The architecture, the encoder's weights in our names, and where they come from (plain values).

    Raises:
        CheckpointError: if it is another model, or of a size whose number of heads is not known.
    """
    sidecar = Path(path).with_suffix(".json")
    described = files.read_json(sidecar) if sidecar.is_file() else {}
    arguments = described.get("wav2vec2_model")
    arguments = arguments if isinstance(arguments, dict) else {}
    state, shape = _encoder_weights(contents, arguments, path)
    if arguments and not isinstance(arguments.get("encoder_layer_norm_first"), bool):
        raise CheckpointError(
            f"{sidecar} does not say encoder_layer_norm_first, which weights do not tell: add true or false "
            'to its "wav2vec2_model"'
        )
    settings = _settings(arguments or _published(shape, path))
    settings["normalize_input"] = described.get("normalize_waveform", settings["pre_norm"])
    own, grad_scale = architecture.split_own(described.get("distill"))
    config = architecture.make_hubert_config(shape | settings | grad_scale, sidecar)
    architecture.compare(arguments, _shapes(config), path, sidecar.name)
    return config, state, own


def read_bundle(name: str) -> tuple[HubertConfig, dict[str, Tensor], dict[str, Any]]:
    """One of torchaudio's pre-trained models, downloaded into the cache of torch.hub if it is not in it.

    Args:
        name: such as "HUBERT_BASE".

    Returns:
        As `parse`.

    Raises:
        CheckpointError: for an unknown name or another model, or if it cannot be downloaded.
    """
    from torchaudio import pipelines

    bundle = getattr(pipelines, name, None)
    if bundle is None:
        known = [key for key in dir(pipelines) if is_bundle(key)]
        close = difflib.get_close_matches(name, known, n=1)
        hint = f": did you mean {close[0]}?" if close else f", it has {', '.join(known)}"
        raise CheckpointError(f"torchaudio has no bundle {name}{hint}")
    if name.startswith("WAVLM_"):
        raise CheckpointError(f"{name} {_WAVLM}")
    try:
        model = bundle.get_model(dl_kwargs={"weights_only": True})  # whatever lies in the cache by now
    except Exception as error:  # the exceptions of its network stack differ between versions
        raise CheckpointError(
            f"the torchaudio bundle {name} is not in the cache, and downloading it failed "
            f"({first_line(error)}): check the network, or give the path of a checkpoint you have"
        ) from error
    normalize = bool(getattr(model, "normalize_waveform", False))
    arguments = getattr(bundle, "_params", {})
    state, shape = _encoder_weights(model.state_dict(), arguments, name)
    settings = _settings(_arguments(getattr(model, "model", model))) | {"normalize_input": normalize}
    config = architecture.make_hubert_config(shape | settings, name)
    architecture.compare(arguments, _shapes(config), name, "torchaudio")
    return config, state, {"bundle": name}


def _encoder_weights(
    contents: Mapping[str, Any], arguments: Mapping[str, Any], source: object
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The encoder's weights in our names, and the fields of `HubertConfig` that they tell.

    Args:
        contents: the state dict.
        arguments: of `wav2vec2_model` as far as they are known; the strides are among them.
        source: the checkpoint, for messages.
    """
    tensors = weights.unwrapped(contents, source)
    for prefix in _PREFIXES:
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    if any("rel_attn_embed" in key or "gru_rel_pos" in key for key in tensors):
        raise CheckpointError(f"{source} {_WAVLM}")
    state = weights.renamed(tensors, _NAMES, source, of="torchaudio's HuBERT", besides=_HEADS)
    layers = arguments.get("extractor_conv_layer_config")
    try:
        strides = None if layers is None else [int(stride) for _, _, stride in layers]
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{source}: extractor_conv_layer_config is {str(layers)[:80]!r}, expected a list of "
            "(channels, kernel, stride)"
        ) from None
    return state, architecture.architecture(state, strides, source)


def _published(shape: Mapping[str, Any], path: object) -> dict[str, Any]:
    """The arguments that the weights of a published size do not tell."""
    heads = _ATTENTION_HEADS.get(shape["dim"])
    if heads is None or shape["conv_layers"][0][0] != 512:
        raise CheckpointError(
            f"{path} is a state dict of torchaudio in a size that is not published: put "
            f'{{"wav2vec2_model": {{"encoder_num_heads": N, "encoder_layer_norm_first": false, ...}}}}, the '
            f"arguments of "
            f"torchaudio.models.wav2vec2_model, into {Path(str(path)).with_suffix('.json').name} next to it"
        )
    return {"encoder_num_heads": heads, "encoder_layer_norm_first": shape["conv_norm"] == "layer"}


def _settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `HubertConfig` that weights do not tell, from the arguments of `wav2vec2_model`."""
    return {
        "heads": arguments.get("encoder_num_heads"),
        "pre_norm": arguments.get("encoder_layer_norm_first", False),
        "dropout": arguments.get("encoder_dropout", 0.1),
        "attention_dropout": arguments.get("encoder_attention_dropout", 0.1),
        "activation_dropout": arguments.get("encoder_ff_interm_dropout", 0.0),
        "projection_dropout": arguments.get("encoder_projection_dropout", 0.0),
        "layerdrop": arguments.get("encoder_layer_drop", 0.0),
    }


def _arguments(model: Any) -> dict[str, Any]:
    """The arguments that a model of torchaudio was built with, as far as `_settings` needs them."""
    transformer: Any = model.encoder.transformer
    layer = transformer.layers[0]
    return {
        "encoder_num_heads": layer.attention.num_heads,
        # The module's own attribute says the opposite: it is about the norm in front of all layers.
        "encoder_layer_norm_first": layer.layer_norm_first,
        "encoder_dropout": _probability(transformer.dropout),
        "encoder_attention_dropout": float(layer.attention.dropout),
        "encoder_ff_interm_dropout": _probability(layer.feed_forward.intermediate_dropout),
        "encoder_projection_dropout": _probability(model.encoder.feature_projection.dropout),
        "encoder_layer_drop": float(transformer.layer_drop),
    }


def _probability(dropout: nn.Dropout) -> float:
    return float(dropout.p)


def write(model: HubertEncoder, path: Path, provenance: dict[str, Any] | None = None) -> Path:
    """Write a state dict for `torchaudio.models.wav2vec2_model`, of which `hubert_base()` is a case.

    Its `extract_features(waveforms, lengths)` gives our hidden states from layer 1 on. It does not mask its
    group norm: they are equal for one utterance or equal lengths. It wants waveforms of zero mean and unit
    variance where the JSON says `normalize_waveform`.

    Args:
        model: a teacher.
        path: the .pt file; a .json with the arguments of `wav2vec2_model` is written next to it.
        provenance: plain values, kept in the JSON under "distill", with the scale of the CNN's gradient,
            which torchaudio does not know.

    Returns:
        The path.

    Raises:
        CheckpointError: if the files cannot be written.
    """
    state, unknown = weights.rename(model.state_dict(), {ours: theirs for theirs, ours in _NAMES.items()})
    assert not unknown, unknown
    description = {
        "format": "robust-distilhubert torchaudio",
        "wav2vec2_model": _describe(model.config),
        "normalize_waveform": model.config.normalize_input,
        "distill": architecture.own_section(model.config, provenance),
    }
    files.write_json(path.with_suffix(".json"), description)
    return files.write_torch(path, {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()})


def _shapes(config: HubertConfig) -> dict[str, Any]:
    """What the weights decide of our configuration as arguments of `torchaudio.models.wav2vec2_model`."""
    return {
        "extractor_mode": f"{config.conv_norm}_norm",
        "extractor_conv_layer_config": [list(layer) for layer in config.conv_layers],
        "extractor_conv_bias": config.conv_bias,
        "encoder_embed_dim": config.dim,
        "encoder_pos_conv_kernel": config.position_kernel,
        "encoder_pos_conv_groups": config.position_groups,
        "encoder_num_layers": config.layers,
        "encoder_ff_interm_features": config.ffn_dim,
    }


def _describe(config: HubertConfig) -> dict[str, Any]:
    """Our configuration as the arguments of `torchaudio.models.wav2vec2_model`."""
    return _shapes(config) | {
        "encoder_projection_dropout": config.projection_dropout,
        "encoder_num_heads": config.heads,
        "encoder_attention_dropout": config.attention_dropout,
        "encoder_ff_interm_dropout": config.activation_dropout,
        "encoder_dropout": config.dropout,
        "encoder_layer_norm_first": config.pre_norm,
        "encoder_layer_drop": config.layerdrop,
        "aux_num_out": None,
    }
