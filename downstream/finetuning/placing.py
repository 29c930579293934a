"""Which row of the paper a run is, from the facts that are kept with its scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from distill.downstream.finetuning.paper import Ablation, RunKey
from distill.downstream.results import Result
from distill.options.spiral import ContrastConfig, EmaConfig, HeadsConfig
from distill.spiral.perturbation import MOST_SHIFT, SpecAugment

SIZES = {90_617_216: "BASE", 283_869_056: "LARGE"}
"""Parameters of SPIRAL's encoders."""
_HEADS = {"BASE": HeadsConfig().dim, "LARGE": 2 * HeadsConfig().dim}
_LS_960 = {"train-clean-100", "train-clean-360", "train-other-500"}
_LL_60K = {"small", "medium", "large"}
_LIBRI_LIGHT = "librilight"
_UNLABELLED = {"BASE": "LS-960", "LARGE": "LL-60k"}


def key_of(result: Result) -> RunKey | str:
    """What a run is in the paper's terms, or why it is none of its rows."""
    facts = result.settings
    n_parameters = facts.get("encoder parameters")
    if facts.get("family") != "spiral" or n_parameters not in SIZES:
        shown = f"{n_parameters:,}" if isinstance(n_parameters, int) else "unknown"
        return f"not SPIRAL BASE or LARGE: {facts.get('family') or 'unknown'} encoder, {shown} parameters"
    size = SIZES[n_parameters]
    finetuning = finetuning_speech(facts.get("finetuning speech") or [])
    pretraining = facts.get("pretraining")
    if finetuning is None:
        return f"fine-tuned on {_listed(facts.get('finetuning speech'))}"
    if not isinstance(pretraining, Mapping) or pretraining.get("kind") != "spiral":
        return "how its encoder was pre-trained is not known"
    unlabelled = unlabelled_speech(pretraining.get("train") or [])
    if unlabelled is None:
        return f"pre-trained on {_listed(pretraining.get('train'))}"
    if facts.get("pretrain_mct") is None or facts.get("finetune_mct") is None:
        return "whether it heard noise in training is not known"
    return RunKey(
        size=size,
        unlabelled=unlabelled,
        finetuning=finetuning,
        frozen=bool(facts.get("frozen")),
        units=str(facts.get("units")),
        lm=_lm(result),
        pretrain_mct=bool(facts["pretrain_mct"]),
        finetune_mct=bool(facts["finetune_mct"]),
        ablation=ablation(pretraining, size),
    )


def finetuning_speech(names: Iterable[str]) -> str | None:
    """train-clean-100 or train-960 by the names of the speech (`speech_names`); None: another one."""
    speech = {PurePath(name).name for name in names}
    if speech == {"train-clean-100"}:
        return "train-clean-100"
    return "train-960" if speech == _LS_960 else None


def unlabelled_speech(names: Iterable[str]) -> str | None:
    """LS-960 or LL-60k by the names of the speech (`speech_names`); None: another one, or a part of them."""
    paths = [PurePath(name) for name in names]
    stems = {path.name for path in paths}
    if stems == _LS_960:
        return "LS-960"
    folders = {re.sub("[-_]", "", path.parent.name.lower()) for path in paths}
    return "LL-60k" if folders == {_LIBRI_LIGHT} and stems == _LL_60K else None


def _lm(result: Result) -> str:
    """Its language model: "4-gram", "4-gram of subwords", "": none."""
    if not result.lm:
        return ""
    of = " of subwords" if result.settings.get("lm units") == "subword" else ""
    return f"{result.settings.get('lm order', '?')}-gram{of}"


def ablation(pretraining: Mapping[str, Any], size: str) -> Ablation:
    """What a SPIRAL's recipe does in another way than the paper's.

    Args:
        pretraining: facts of its recipe (`pretraining_facts`).
        size: BASE or LARGE.
    """
    found: dict[str, str] = {}
    if pretraining.get("start"):
        found["from"] = str(pretraining["start"])
    ema = _filled(pretraining.get("ema"), asdict(EmaConfig()))
    if not ema["noise"]:
        found["teacher noise"] = "no"
    if ema["masking"]:
        found["teacher masking"] = _masks(ema["masking"])
    if ema["steps"] not in (None, pretraining.get("steps")):
        found["ema steps"] = str(ema["steps"])
    paper = (0.995, 1.0) if size == "BASE" else (0.99, 0.999)
    if (ema["base"], ema["final"]) != paper:
        found["ema"] = f"{ema['base']:g} to {ema['final']:g}"
    heads = _filled(pretraining.get("heads"), asdict(HeadsConfig()))
    if heads["projection"] != "linear":
        found["projection"] = heads["projection"]
    if heads["predictor"] != "batch":
        found["predictor"] = heads["predictor"]
    if heads["dim"] != _HEADS[size]:
        found["width of the heads"] = str(heads["dim"])
    if (shift := pretraining.get("shift", MOST_SHIFT)) != MOST_SHIFT:
        found["shift"] = str(shift)
    if (masks := _masks(pretraining.get("masking"))) != _masks(None):
        found["masking"] = masks
    contrast = _filled(pretraining.get("contrast"), asdict(ContrastConfig()))
    if contrast != asdict(ContrastConfig()):
        found["contrast"] = f"{contrast['negatives']} negatives, temperature {contrast['temperature']:g}"
    return tuple(sorted(found.items()))


def _masks(values: Any) -> str:
    """SpecAugment in words, as in the paper's key of Table 8."""
    masks = _filled(values, asdict(SpecAugment()))
    return (
        f"time {masks['time_probability']:g}, {masks['time_length']}; "
        f"frequency {masks['channel_probability']:g}, {masks['channel_length']}"
    )


def _filled(values: Any, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a recipe with the defaults of what it does not state."""
    return {**defaults, **(values if isinstance(values, Mapping) else {})}


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) if names else "unknown speech"
