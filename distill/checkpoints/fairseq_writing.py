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

from distill.checkpoints import fairseq, weights
from distill.errors import CheckpointError
from distill.hubert import SAMPLE_RATE, HubertConfig, HubertEncoder


def write(model: HubertEncoder, path: Path, provenance: dict[str, Any] | None = None) -> Path:
    """Write a pre-training checkpoint as fairseq's `hubert_pretraining` task does.

    The pre-training head goes along if the model was read with one (`HubertEncoder.pretraining_head`);
    otherwise mask embedding and final projection are zeros and there are no labels, which is enough for
    features and for fine-tuning. The configuration is a plain dict, which fairseq accepts as well as the
    omegaconf objects that it pickles itself, and which hangs on no version of omegaconf.

    Args:
        model: a teacher.
        path: the .pt file.
        provenance: plain values, kept in `extra_state`.

    Returns:
        The path.

    Raises:
        CheckpointError: if the layout cannot hold the model, or the file cannot be written.
    """
    config, head = model.config, model.pretraining_head
    tensors = _blank_head(config.dim) if head is None else head.weights
    state = to_fairseq_names(model.state_dict(), config, "fairseq") | tensors
    labels = () if head is None else head.dictionaries or (_label_state(len(tensors["label_embs_concat"])),)
    updates = (provenance or {}).get("num_updates", 0)
    history = {"criterion_name": "HubertCriterion", "optimizer_name": "FairseqAdam"}
    with _dictionary_class() as dictionary_class:
        dictionaries = [_with_state(dictionary_class, state) for state in labels] or [None]
        contents = {
            "args": None,
            "cfg": _describe(config, tensors, len(dictionaries)),
            "model": OrderedDict((key, tensor.detach().cpu().contiguous()) for key, tensor in state.items()),
            "criterion": None,
            "optimizer_history": [history | {"lr_scheduler_state": {"best": None}, "num_updates": updates}],
            "task_state": {"dictionaries": dictionaries},
            "extra_state": {"train_iterator": {"epoch": 1}, "distill": provenance or {}},
            "last_optimizer_state": None,
        }
        return weights.write_torch(path, contents)


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


def _describe(config: HubertConfig, head: Mapping[str, Tensor], n_label_sets: int) -> dict[str, Any]:
    """Our configuration in the words of fairseq, the keys of its first HuBERT: later ones have defaults."""
    projected = head["final_proj.weight"].shape[0]
    final_dim = head["label_embs_concat"].shape[1] if "label_embs_concat" in head else projected
    hop = config.frames(SAMPLE_RATE + config.receptive_field) - config.frames(config.receptive_field)
    model = {
        "_name": "hubert",
        "label_rate": float(hop),  # frames a second
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
        "final_dim": final_dim,
        "untie_final_proj": projected == final_dim * n_label_sets,  # a projection for each set
        "layer_norm_first": config.pre_norm,
        "conv_feature_layers": conv_expression(config),
        "conv_bias": config.conv_bias,
        "logit_temp": 0.1,
        "feature_grad_mult": config.cnn_grad_scale,
        "mask_length": 10,
        "mask_prob": 0.8,
        "conv_pos": config.position_kernel,
        "conv_pos_groups": config.position_groups,
    }
    task = {
        "_name": "hubert_pretraining",
        "data": "",
        "labels": ["km"],
        "label_rate": float(hop),
        "sample_rate": SAMPLE_RATE,
        "normalize": config.normalize_input,
    }
    criterion = {"_name": "hubert", "pred_masked_weight": 1.0, "pred_nomask_weight": 0.0}
    return {"_name": None, "common": {}, "model": model, "task": task, "criterion": criterion}


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

    pickle writes a class as its name and checks that the name leads back to it: so for this long there are
    modules of that name, whether or not fairseq is installed.
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
