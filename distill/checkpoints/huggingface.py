"""Hugging Face `transformers` checkpoints: folders (read without transformers) and models of the hub.

HuBERT and wav2vec 2.0, whose encoders are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.checkpoints import safe_pickle, weights
from distill.checkpoints.model_card import Scores, model_card
from distill.checkpoints.safe_pickle import listed
from distill.errors import CheckpointError
from distill.hubert import SAMPLE_RATE, HubertConfig, HubertEncoder

_POSITION = "position.conv.parametrizations.weight"
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
    "feature_projection.layer_norm": "projection_norm",
    "feature_projection.projection": "projection",
    "encoder.pos_conv_embed.conv": "position.conv",
    "encoder.pos_conv_embed.conv.parametrizations.weight": _POSITION,
    "encoder.layer_norm": "norm",
    **{f"encoder.layers.#.{theirs}": f"layers.#.{ours}" for theirs, ours in _LAYER.items()},
}
_OLD_NAMES = {  # before torch had parametrizations
    "encoder.pos_conv_embed.conv.weight_g": f"{_POSITION}.original0",
    "encoder.pos_conv_embed.conv.weight_v": f"{_POSITION}.original1",
}
_MODEL_TYPES = ("hubert", "wav2vec2")
_HEADS = (
    *("masked_spec_embed", "lm_head.", "projector.", "classifier.", "layer_weights"),
    *("quantizer.", "project_hid.", "project_q."),
)
"""Weights around the encoder: SpecAugment's mask, CTC and classification heads, wav2vec 2.0's own head."""
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
FILES = ("config.json", *_WEIGHT_FILES)
"""Any of these names stands for the folder it lies in."""
_FIXED = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "layer_norm_eps": 1e-5}
"""Settings that every HuBERT shares and `HubertEncoder` has built in."""


def matches(folder: Path) -> bool:
    """Whether a folder looks like a model saved by transformers."""
    return (folder / "config.json").is_file()


def is_hub_id(source: str) -> bool:
    """Whether a source that is no existing path reads as "organisation/name"."""
    return re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", source) is not None and not Path(source).parent.exists()


def read(source: str | Path) -> tuple[HubertConfig, dict[str, Tensor], dict[str, Any]]:
    """A HuBERT or wav2vec 2.0 of transformers, with or without a head on top.

    Args:
        source: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, or the id of a
            model on the hub, which is downloaded into the hub's cache.

    Returns:
        The architecture, the encoder's weights in our names, and where they come from (plain values).

    Raises:
        CheckpointError: if it cannot be downloaded or read, or is another model.
    """
    folder = Path(source)
    if not folder.exists() and is_hub_id(str(source)):
        folder = _download(str(source))
    settings = weights.read_json(folder / "config.json")
    model_type = settings.get("model_type")
    if model_type == "wavlm":
        raise CheckpointError(f"{source} {weights.WAVLM}")
    if model_type not in _MODEL_TYPES:
        raise CheckpointError(
            f"{source} holds a model of type {model_type!r}, expected {' or '.join(map(repr, _MODEL_TYPES))}"
        )
    wrong = [key for key, value in _FIXED.items() if settings.get(key, value) != value]
    if wrong or settings.get("conv_pos_batch_norm"):
        key = wrong[0] if wrong else "conv_pos_batch_norm"
        raise CheckpointError(
            f"{source}: {key} is {settings[key]!r} in config.json, expected {_FIXED.get(key, False)!r}"
        )
    tensors = _read_weights(folder)
    tensors = {str(key).removeprefix(f"{model_type}."): tensor for key, tensor in tensors.items()}
    state, unknown = weights.rename(tensors, _NAMES | _OLD_NAMES)
    unknown = [key for key in unknown if not key.startswith(_HEADS)]
    if unknown:
        raise CheckpointError(f"{source} holds weights that a HuBERT does not have: {listed(unknown)}")
    strides = settings.get("conv_stride", weights.STRIDES)
    if not isinstance(strides, list | tuple):
        raise CheckpointError(f"{source}: conv_stride is {strides!r} in config.json, expected a list")
    shape = weights.architecture(state, tuple(strides), source)
    own, grad_scale = weights.split_own(settings.get("distill"))
    config = weights.make_config(shape | _settings(settings, folder, shape) | grad_scale, source)
    provenance = {"model_type": model_type, "architectures": settings.get("architectures")}
    return config, state, provenance | own


def _settings(settings: dict[str, Any], folder: Path, shape: dict[str, Any]) -> dict[str, Any]:
    """The fields of `HubertConfig` that weights do not tell; defaults are those of transformers."""
    preprocessor = folder / "preprocessor_config.json"
    normalize = shape["conv_norm"] == "layer"
    if preprocessor.is_file():
        normalize = weights.read_json(preprocessor).get("do_normalize", normalize)
    return {
        "heads": settings.get("num_attention_heads", 12),
        "pre_norm": settings.get("do_stable_layer_norm", False),
        "normalize_input": normalize,
        "dropout": settings.get("hidden_dropout", 0.1),
        "attention_dropout": settings.get("attention_dropout", 0.1),
        "activation_dropout": settings.get("activation_dropout", 0.1),
        "projection_dropout": settings.get("feat_proj_dropout", 0.0),
        "layerdrop": settings.get("layerdrop", 0.1),
    }


def _read_weights(folder: Path) -> dict[str, Any]:
    safe, pickled = (folder / name for name in _WEIGHT_FILES)
    if safe.is_file():
        return weights.read_safetensors(safe)
    if not pickled.is_file():
        raise CheckpointError(f"{folder} has a config.json but neither {' nor '.join(_WEIGHT_FILES)}")
    tensors = safe_pickle.load(pickled)
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{pickled} holds a {type(tensors).__name__}, expected a dict of weights")
    return tensors


def _download(hub_id: str) -> Path:
    """The folder of a model on the hub, from the cache if it is there."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise CheckpointError(f"reading {hub_id} from the hub needs `pip install huggingface_hub`") from error
    try:
        for weight_file in _WEIGHT_FILES:  # one of the two is enough, and they are large
            folder = Path(
                snapshot_download(
                    hub_id, allow_patterns=["config.json", "preprocessor_config.json", weight_file]
                )
            )
            if (folder / weight_file).is_file():
                break
    except Exception as error:  # the exceptions of its network stack differ between versions
        raise CheckpointError(
            f"{hub_id} is no existing path, and fetching it from the Hugging Face hub failed "
            f"({safe_pickle.first_line(error)}): check name and network, or give a folder you downloaded"
        ) from error
    return folder


def write(
    model: HubertEncoder,
    folder: str | Path,
    provenance: dict[str, Any] | None = None,
    *,
    recipe: Mapping[str, Any] | None = None,
    scores: Scores | None = None,
) -> Path:
    """Write an encoder so that `transformers.HubertModel.from_pretrained(folder)` is the same model.

    Its `hidden_states` are ours, except that in pre-norm models some versions of transformers apply the final
    layer norm to the last one: that is our `last_hidden_state`.

    Args:
        model: a teacher, or a student's encoder.
        folder: made if missing; gets config.json, preprocessor_config.json, model.safetensors and README.md,
            a model card.
        provenance: plain values, kept in config.json under "distill", with the scale of the CNN's gradient,
            which transformers does not know.
        recipe: of the run, for the model card.
        scores: test condition -> task -> score, for the model card.

    Returns:
        The folder.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    folder = Path(folder)
    state, unknown = weights.rename(model.state_dict(), {ours: theirs for theirs, ours in _NAMES.items()})
    assert not unknown, unknown
    weights.write_safetensors(folder / "model.safetensors", state)
    weights.write_json(
        folder / "preprocessor_config.json",
        {
            "do_normalize": model.config.normalize_input,
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            # Models with group norm are used without a mask in transformers: padding counts as silence there.
            "return_attention_mask": model.config.conv_norm == "layer",
            "sampling_rate": SAMPLE_RATE,
        },
    )
    own = {"distill": weights.own_section(model.config, provenance)}
    weights.write_json(folder / "config.json", _describe(model.config) | own)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(model.config, n_parameters, provenance=provenance, recipe=recipe, scores=scores)
    with weights.atomic(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    return folder


def push(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload an exported folder to the Hugging Face hub, into a new repository or an existing one.

    Needs a login: `hf auth login`, or a token in the environment variable HF_TOKEN.

    Args:
        folder: what `write` wrote.
        repo_id: "organisation/name".
        private: whether a new repository is only for its owners.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: if the folder is no exported model, the name is none, or the hub refuses.
    """
    folder = Path(folder)
    if re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", repo_id) is None:
        raise CheckpointError(f"{repo_id!r} is no repository of the hub, expected organisation/name")
    if not matches(folder):
        raise CheckpointError(f"{folder} is no exported Hugging Face folder: it has no config.json")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise CheckpointError("pushing to the hub needs `pip install huggingface_hub`") from error
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=repo_id,
            allow_patterns=["README.md", "config.json", "preprocessor_config.json", "model.safetensors"],
            commit_message="Model exported by robust-distilhubert",
        )
    except Exception as error:  # the exceptions of its network stack differ between versions
        raise CheckpointError(
            f"pushing to {repo_id} failed ({safe_pickle.first_line(error)}): check network, name and login "
            "(`hf auth login`)"
        ) from error
    return str(url)


def _describe(config: HubertConfig) -> dict[str, Any]:
    """Our configuration in the words of transformers."""
    channels, kernels, strides = (list(column) for column in zip(*config.conv_layers, strict=True))
    return {
        "architectures": ["HubertModel"],
        "model_type": "hubert",
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn_dim,
        "do_stable_layer_norm": config.pre_norm,
        "feat_proj_layer_norm": config.projection_norm,
        "feat_extract_norm": config.conv_norm,
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": config.conv_bias,
        "num_feat_extract_layers": len(channels),
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
        "hidden_dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "feat_proj_dropout": config.projection_dropout,
        "layerdrop": config.layerdrop,
        # No SpecAugment: with it the model would need a mask embedding, which we do not have.
        "apply_spec_augment": False,
        "mask_time_prob": 0.0,
        "mask_feature_prob": 0.0,
        **_FIXED,
    }
