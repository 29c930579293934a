"""Write HuBERT checkpoints of fairseq: its keys, shapes and pickled names, without importing it."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from distill.checkpoints import fairseq, files, weights
from distill.checkpoints.paths import without_absolute_paths
from distill.errors import CheckpointError
from distill.hubert import HubertConfig, HubertEncoder
from distill.waveforms import SAMPLE_RATE


def write(
    model: HubertEncoder,
    path: Path,
    provenance: dict[str, Any] | None = None,
    *,
    recipe: Mapping[str, Any] | None = None,
) -> Path:
    """Write a pre-training checkpoint as fairseq's `hubert_pretraining` task does.

    The pre-training head goes along if the model was read with one (`HubertEncoder.pretraining_head`);
    otherwise mask embedding and final projection are zeros and there are no labels, which is enough for
    features and for fine-tuning. The configuration is a plain dict, which fairseq accepts as well as the
    omegaconf objects that it pickles itself, and depends on no version of omegaconf. It says what the
    model's file said, without absolute paths, and what is known of a run of `distill adapt`.

    Args:
        model: a teacher.
        path: the .pt file.
        provenance: plain values, kept in `extra_state`; the number of updates is in it.
        recipe: of the run that made the model, for its masking.

    Returns:
        The path.

    Raises:
        CheckpointError: if the layout cannot hold the model, or the file cannot be written.
    """
    config, head = model.config, model.pretraining_head or fairseq.Head(_blank_head(model.config.dim))
    provenance, tensors = provenance or {}, head.weights
    state = to_fairseq_names(model.state_dict(), config, "fairseq") | tensors
    labels = head.dictionaries
    if not labels and "label_embs_concat" in tensors:
        labels = (_label_state(len(tensors["label_embs_concat"])),)
    updates = provenance.get("num_updates", provenance.get("step", 0))  # theirs, ours
    # fairseq resumes nothing whose names are not those of its own classes.
    history = {"criterion_name": "HubertCriterion", "optimizer_name": "FairseqAdam"}
    with _dictionary_class() as dictionary_class:
        dictionaries = [_with_state(dictionary_class, state) for state in labels] or [None]
        contents = {
            "args": None,
            "cfg": _merged(
                _defaults(config, tensors, len(dictionaries)),
                without_absolute_paths(head.settings),
                _architecture(config),
                _training(provenance, recipe or {}),
            ),
            "model": OrderedDict((key, tensor.detach().cpu().contiguous()) for key, tensor in state.items()),
            "criterion": None,
            "optimizer_history": [history | {"lr_scheduler_state": {"best": None}, "num_updates": updates}],
            "task_state": {"dictionaries": dictionaries},
            "extra_state": {"train_iterator": {"epoch": 1}, "distill": provenance},
            "last_optimizer_state": None,
        }
        return files.write_torch(path, contents)


def to_fairseq_names(state: Mapping[str, Tensor], config: HubertConfig, layout: str) -> dict[str, Tensor]:
    """An encoder's weights under fairseq's names, which are s3prl's too; weight norm under its old ones.

    Args:
        state: in our names.
        config: the architecture.
        layout: whose, for the message.

    Raises:
        CheckpointError: if CNN and transformer are equally wide with a projection between them.
    """
    state = dict(state)
    if config.conv_layers[-1][0] == config.dim:
        identity: dict[str, Tensor] = {"norm.weight": state["norm.weight"]}
        fairseq.add_identity_projection(identity)
        if any(not torch.equal(state.pop(key), value) for key, value in identity.items() if "proj" in key):
            raise CheckpointError(
                f"{layout} cannot hold this model: where CNN and transformer are equally wide "
                f"({config.dim}) its layout has no projection between them, and this model has one"
            )
    norm = ".2" if config.conv_norm == "group" else ".2.1"
    names = {ours: theirs for theirs, ours in fairseq.NAMES.items() if ours != "cnn.#.norm"}
    renamed, unknown = weights.rename(state, names | {"cnn.#.norm": f"feature_extractor.conv_layers.#{norm}"})
    assert not unknown, unknown
    return renamed


def conv_expression(config: HubertConfig) -> str:
    """The convolutions as fairseq writes them: "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"."""
    terms = []
    for (channels, kernel, stride), run in groupby(config.conv_layers):
        count = len(list(run))
        terms.append(f"[({channels},{kernel},{stride})]" + (f" * {count}" if count > 1 else ""))
    return " + ".join(terms)


def _merged(*configurations: Mapping[str, Any]) -> dict[str, Any]:
    """One of several: what a later one says about a section's entry counts."""
    merged: dict[str, Any] = {"_name": None}
    for sections in configurations:
        for name, values in sections.items():
            merged[name] = merged.get(name, {}) | values
    return merged


def _defaults(config: HubertConfig, head: Mapping[str, Tensor], n_label_sets: int) -> dict[str, Any]:
    """What HuBERT's own pre-training says, in the keys of its first version: later ones have defaults."""
    projected = head["final_proj.weight"].shape[0]
    final_dim = head["label_embs_concat"].shape[1] if "label_embs_concat" in head else projected
    label_rate = SAMPLE_RATE / config.hop  # frames a second
    model = {
        "label_rate": label_rate,
        "final_dim": final_dim,
        "untie_final_proj": projected == final_dim * n_label_sets,  # a projection for each set
        "logit_temp": 0.1,
        "mask_length": 10,
        "mask_prob": 0.8,
    }
    task = {"_name": "hubert_pretraining", "data": "", "labels": ["km"], "label_rate": label_rate}
    criterion = {"_name": "hubert", "pred_masked_weight": 1.0, "pred_nomask_weight": 0.0}
    return {"common": {}, "model": model, "task": task, "criterion": criterion}


def _architecture(config: HubertConfig) -> dict[str, Any]:
    """Our configuration in the words of fairseq."""
    model = {
        "_name": "hubert",
        "extractor_mode": "default" if config.conv_norm == "group" else "layer_norm",
        "encoder_layers": config.layers,
        "encoder_embed_dim": config.dim,
        "encoder_ffn_embed_dim": config.ffn_dim,
        "encoder_attention_heads": config.heads,
        "activation_fn": "gelu",
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "encoder_layerdrop": config.layerdrop,
        "dropout_input": config.projection_dropout,
        "layer_norm_first": config.pre_norm,
        "conv_feature_layers": conv_expression(config),
        "conv_bias": config.conv_bias,
        "feature_grad_mult": config.cnn_grad_scale,
        "conv_pos": config.position_kernel,
        "conv_pos_groups": config.position_groups,
    }
    return {"model": model, "task": {"sample_rate": SAMPLE_RATE, "normalize": config.normalize_input}}


def _training(provenance: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a run of `distill adapt` says about its loss, in the words of fairseq; empty for other models.

    Args:
        provenance: a Lightning checkpoint's has these values.
        recipe: its masking section has them too.
    """
    masking = recipe.get("masking")
    masking = masking if isinstance(masking, Mapping) else {}
    penalty = masking.get("feature_penalty", provenance.get("feature_penalty"))
    model = {
        "mask_prob": masking.get("probability", provenance.get("mask_probability")),
        "mask_length": masking.get("length", provenance.get("mask_length")),
        "logit_temp": provenance.get("temperature"),
    }
    criterion = {
        "pred_nomask_weight": masking.get("unmasked_weight", provenance.get("unmasked_weight")),
        "loss_weights": None if penalty is None else [penalty],
    }
    return {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in {"model": model, "criterion": criterion}.items()
    }


def _blank_head(dim: int) -> dict[str, Tensor]:
    """What fairseq's HuBERT has even without labels; 256 is the width of the published base model's."""
    projection = {"final_proj.weight": torch.zeros(256, dim), "final_proj.bias": torch.zeros(256)}
    return {"mask_emb": torch.zeros(dim), **projection}


def _label_state(n_labels: int) -> dict[str, Any]:
    """The state of a fairseq dictionary of its four special symbols and the clusters 0, 1, ..."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    symbols = [*special, *map(str, range(n_labels - len(special)))][:n_labels]
    return {
        **{"bos_word": "<s>", "unk_word": "<unk>", "pad_word": "<pad>", "eos_word": "</s>"},
        "symbols": symbols,
        "count": [1] * n_labels,
        "indices": {symbol: index for index, symbol in enumerate(symbols)},
        **{"bos_index": 0, "pad_index": 1, "eos_index": 2, "unk_index": 3, "nspecial": len(special)},
    }


def _with_state(made: type, state: Mapping[str, Any]) -> Any:
    instance = made()
    instance.__dict__.update(state)
    return instance


@contextmanager
def _dictionary_class() -> Iterator[type]:
    """A class that pickles as `fairseq.data.dictionary.Dictionary`; to be used inside the context.

    pickle writes a class as its name and checks that the name leads back to it: inside the context modules of
    that name exist, whether or not fairseq is installed.
    """
    leaf = "fairseq.data.dictionary"
    made = type("Dictionary", (), {"__module__": leaf})
    modules = {name: ModuleType(name) for name in ("fairseq", "fairseq.data", leaf)}
    modules[leaf].__dict__["Dictionary"] = made
    originals = {name: sys.modules[name] for name in modules if name in sys.modules}
    sys.modules.update(modules)
    try:
        yield made
    finally:
        for name in modules:
            del sys.modules[name]
        sys.modules.update(originals)
