"""Hugging Face `transformers` checkpoints: folders (read without transformers) and models of the hub.

HuBERT and wav2vec 2.0, whose encoders are the same, and WavLM.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from distill.checkpoints import architecture, files, huggingface_files, safe_pickle, weights
from distill.checkpoints.card_metadata import MeasuredScore
from distill.checkpoints.model_card import Scores, model_card
from distill.errors import CheckpointError
from distill.hubert import HubertConfig, HubertEncoder
from distill.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)
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
_WAVLM_NAMES = {
    "encoder.layers.#.attention.gru_rel_pos_linear": "layers.#.gate",
    "encoder.layers.#.attention.gru_rel_pos_const": "layers.#.gate_scale",
    "encoder.layers.0.attention.rel_attn_embed.weight": "relative.embedding.weight",
}
_MODEL_TYPES = ("hubert", "wav2vec2", "wavlm")
_HEADS = (
    *("masked_spec_embed", "lm_head.", "projector.", "classifier.", "layer_weights"),
    *("quantizer.", "project_hid.", "project_q."),
)
"""Weights around the encoder: SpecAugment's mask, CTC and classification heads, wav2vec 2.0's own head."""
FILES = ("config.json", *huggingface_files.WEIGHTS)
"""Any of these names stands for the folder it lies in."""
WRITTEN = ("README.md", "config.json", "preprocessor_config.json", "model.safetensors")
"""The files that `write` writes and `push` uploads."""
_FIXED = {"hidden_act": "gelu", "feat_extract_activation": "gelu", "layer_norm_eps": 1e-5}
"""Settings that every HuBERT shares and `HubertEncoder` has built in."""


def matches(folder: Path) -> bool:
    """Whether a folder looks like a model saved by transformers."""
    return (folder / "config.json").is_file()


def is_hub_id(source: str) -> bool:
    """Whether a source that is not an existing path reads as "organisation/name"."""
    return re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", source) is not None and not Path(source).parent.exists()


def read(
    source: str | Path, *, normalize_input: bool | None = None
) -> tuple[HubertConfig, dict[str, Tensor], dict[str, Any]]:
    """A HuBERT, wav2vec 2.0 or WavLM of transformers, with or without a head on top.

    Args:
        source: a folder with `config.json` and `model.safetensors` or `pytorch_model.bin`, in one file or
            in shards, or the id of a model on the hub, which is downloaded into the hub's cache.
        normalize_input: whether waveforms are normalised; None: as `_normalizes` decides.

    Returns:
        The architecture, the encoder's weights in our names, and where they come from (plain values).

    Raises:
        CheckpointError: if it cannot be downloaded or read, or is another model.
    """
    folder = Path(source)
    if not folder.exists() and is_hub_id(str(source)):
        folder = huggingface_files.download(str(source))
    settings = files.read_json(folder / "config.json")
    model_type = settings.get("model_type")
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
    tensors = weights.unwrapped(huggingface_files.read(folder), source)
    tensors = {str(key).removeprefix(f"{model_type}."): tensor for key, tensor in tensors.items()}
    wavlm = model_type == "wavlm"
    names, kind = (_WAVLM_NAMES, "a WavLM") if wavlm else ({}, "a HuBERT")
    state = weights.renamed(tensors, _NAMES | _OLD_NAMES | names, source, of=kind, besides=_HEADS)
    if wavlm and "relative.embedding.weight" not in state:
        raise CheckpointError(
            f"{source} is a WavLM by its config.json, but its weights have no relative position bias: they "
            "are of another model"
        )
    strides = settings.get("conv_stride")
    if strides is not None and not isinstance(strides, list):
        raise CheckpointError(f"{source}: conv_stride is {strides!r} in config.json, expected a list")
    shape = architecture.architecture(state, strides, source)
    own, fields = architecture.split_own(settings.get("distill"))
    if normalize_input is None:
        normalize_input = _normalizes(folder, shape, fields)
    fields |= _settings(settings) | {"normalize_input": normalize_input}
    fields |= {"relative_distance": settings.get("max_bucket_distance", 800)} if wavlm else {}
    config = architecture.make_hubert_config(shape | fields, source)
    architecture.compare(settings, _shapes(config), source, "config.json")
    provenance = {"model_type": model_type, "architectures": settings.get("architectures")}
    return config, state, provenance | own


def _normalizes(folder: Path, shape: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
    """Whether waveforms are normalised, if the user does not say.

    What our own export noted down counts first. Models with a group norm were trained on waveforms as they
    are, by fairseq and s3prl; the hub's folders of the same weights say `do_normalize: true` all the same,
    which is the default of transformers' feature extractor. So that counts for layer-norm models alone.

    Args:
        folder: with `preprocessor_config.json`, or without.
        shape: of the model, from its weights.
        own: what `architecture.own_section` noted down.
    """
    path = folder / "preprocessor_config.json"
    stated = files.read_json(path).get("do_normalize") if path.is_file() else None
    layer_norm = shape["conv_norm"] == "layer"
    chosen, why = layer_norm, "group-norm models are trained on waveforms as they are"
    if "normalize_input" in own:
        chosen, why = own["normalize_input"], 'config.json says so under "distill"'
    elif stated is not None and (layer_norm or own):  # before we noted it down, our exports said it there
        chosen = stated
    if stated is not None and stated != chosen:
        logger.warning(
            "%s says do_normalize: %s, which is not followed: waveforms are %snormalised, as %s; add "
            "?normalize=%s to the model's name to choose",
            *(path, str(stated).lower()[:20], "" if chosen else "not ", why, str(bool(stated)).lower()),
        )
    return chosen


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of `HubertConfig` that weights do not tell; defaults are those of transformers."""
    return {
        "heads": settings.get("num_attention_heads", 12),
        "pre_norm": settings.get("do_stable_layer_norm", False),
        "dropout": settings.get("hidden_dropout", 0.1),
        "attention_dropout": settings.get("attention_dropout", 0.1),
        "activation_dropout": settings.get("activation_dropout", 0.1),
        "projection_dropout": settings.get("feat_proj_dropout", 0.0),
        "layerdrop": settings.get("layerdrop", 0.1),
    }


def write(
    model: HubertEncoder,
    folder: str | Path,
    provenance: dict[str, Any] | None = None,
    *,
    recipe: Mapping[str, Any] | None = None,
    scores: Scores | Sequence[MeasuredScore] | None = None,
    license: str | None = None,
) -> Path:
    """Write an encoder so that `transformers.HubertModel.from_pretrained(folder)` is the same model.

    A WavLM is one of `transformers.WavLMModel`.

    Its `hidden_states` are ours, except that in pre-norm models some versions of transformers apply the final
    layer norm to the last one: that is our `last_hidden_state`.

    Args:
        model: a teacher, or a student's encoder.
        folder: made if missing; gets config.json, preprocessor_config.json, model.safetensors and README.md,
            a model card.
        provenance: plain values, kept in config.json under "distill", with what transformers does not know,
            the scale of the CNN's gradient, or forgets without its feature extractor, the normalisation.
        recipe: of the run, for the model card.
        scores: measured ones, or test condition -> task -> score, for the model card.
        license: of the model as the hub calls it, for the model card; None: not stated.

    Returns:
        The folder.

    Raises:
        CheckpointError: if the folder cannot be written.
    """
    folder = Path(folder)
    names = _NAMES | _WAVLM_NAMES
    state, unknown = weights.rename(model.state_dict(), {ours: theirs for theirs, ours in names.items()})
    assert not unknown, unknown
    files.write_safetensors(folder / "model.safetensors", state)
    files.write_json(
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
    own = {
        "distill": architecture.own_section(model.config, provenance, ("cnn_grad_scale", "normalize_input"))
    }
    files.write_json(folder / "config.json", _describe(model.config) | own)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(
        model.config, n_parameters, provenance=provenance, recipe=recipe, scores=scores, license=license
    )
    with files.atomic(folder / "README.md") as temporary:
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
        CheckpointError: if the folder is not an exported model, the name is not one, or the hub refuses.
    """
    folder = Path(folder)
    if re.fullmatch(r"[\w][\w.-]*/[\w][\w.-]*", repo_id) is None:
        raise CheckpointError(f"{repo_id!r} is not the name of a repository, expected organisation/name")
    if not matches(folder):
        raise CheckpointError(f"{folder} is not an exported Hugging Face folder: it has no config.json")
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
            allow_patterns=list(WRITTEN),
            commit_message="Model exported by robust-distilhubert",
        )
    except Exception as error:  # the exceptions of its network stack differ between versions
        raise CheckpointError(
            f"pushing to {repo_id} failed ({safe_pickle.first_line(error)}): check network, name and login "
            "(`hf auth login`)"
        ) from error
    return str(url)


def _shapes(config: HubertConfig) -> dict[str, Any]:
    """What the weights decide of our configuration, in the words of transformers."""
    channels, kernels, strides = (list(column) for column in zip(*config.conv_layers, strict=True))
    return {
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "intermediate_size": config.ffn_dim,
        "feat_proj_layer_norm": config.projection_norm,
        "feat_extract_norm": config.conv_norm,
        "conv_dim": channels,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": config.conv_bias,
        "num_feat_extract_layers": len(channels),
        "num_conv_pos_embeddings": config.position_kernel,
        "num_conv_pos_embedding_groups": config.position_groups,
        **({"num_buckets": config.relative_buckets} if config.relative_buckets else {}),
    }


def _describe(config: HubertConfig) -> dict[str, Any]:
    """Our configuration in the words of transformers."""
    wavlm = {"model_type": "wavlm", "max_bucket_distance": config.relative_distance}
    return _shapes(config) | {
        "architectures": ["WavLMModel" if config.relative_buckets else "HubertModel"],
        **(wavlm if config.relative_buckets else {"model_type": "hubert"}),
        "num_attention_heads": config.heads,
        "do_stable_layer_norm": config.pre_norm,
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
