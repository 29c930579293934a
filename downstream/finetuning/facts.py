"""What a fine-tuned model is, as far as its recipe and that of its pre-training say: kept with its scores.

Tables find the paper's row by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import torch

from distill.checkpoints.heard import noises_heard
from distill.checkpoints.loading import load_any
from distill.config.method import speech_names
from distill.errors import CheckpointError

_SECTIONS = ("ema", "heads", "shift", "masking", "contrast")
"""Parts of a SPIRAL's recipe that ablations change."""


def pretraining_facts(checkpoint: str) -> tuple[dict[str, Any] | None, list[str]]:
    """What is known about how a checkpoint was made.

    Returns:
        What the recipe of its run says, None without one, as for published checkpoints: "name", "kind",
        "train" (`speech_names`), "steps", "mct", "noises" (sources), and of SPIRAL "start" (a checkpoint;
        None: from nothing), "ema", "heads", "shift", "masking", "contrast". And the corpora of noise that it
        has heard (`noises_heard`).
    """
    try:
        with torch.random.fork_rng(devices=[]):  # building a model draws weights
            _, provenance, recipe = load_any(checkpoint)
    except CheckpointError:  # it was there when fine-tuning began, perhaps elsewhere
        return None, []
    return None if recipe is None else described(recipe), noises_heard(provenance, recipe)


def described(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in a recipe, as `pretraining_facts`."""
    data, optim = _section(recipe, "data"), _section(recipe, "optim")
    found = {
        "name": recipe.get("name"),
        "kind": recipe.get("kind", "distil"),
        "train": speech_names(data.get("train") or ()),
        "steps": optim.get("max_steps"),
        "mct": hears_noise(recipe),
        "noises": data.get("noises") or {},
    }
    if found["kind"] == "spiral":
        start = str(recipe.get("teacher"))
        found["start"] = None if start.startswith("random:") else PurePath(start).name
    return found | {name: recipe[name] for name in _SECTIONS if name in recipe}


def hears_noise(recipe: Mapping[str, Any]) -> bool | None:
    """Whether a recipe trains on noisy speech, too; None where its kind has another way of saying so."""
    if recipe.get("kind") not in ("spiral", "finetune"):
        return None
    drawn = _section(recipe, "distortion")
    return bool(recipe.get("distort")) and bool(
        drawn.get("rir")
        or set(drawn.get("additive") or ()) - {"none"}
        or set(drawn.get("non_additive") or ()) - {"none"}
    )


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}
