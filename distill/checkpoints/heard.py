"""Which noise a model, or a teacher of it, has heard in training: a test with it is none of new noise.

A released model keeps it in its provenance, and hands it on to the students that are distilled from it. What
was trained elsewhere, or before there was this entry and outside a run folder, does not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from distill.checkpoints.loading import load_any, split_source

_ENTRY = "noises_heard"
_NO_CORPUS = ("none", "gaussian", "rir")  # what `additive` and `corpora` of a distortion may hold besides


def noises_heard(provenance: Mapping[str, Any], recipe: Mapping[str, Any] | None = None) -> list[str]:
    """The corpora of noise (musan, wham, fsd, dns) that a model has heard, as far as that is known.

    Args:
        provenance: of the model, with what a teacher of it heard.
        recipe: of its run, if it lies in a run folder.
    """
    noted = provenance.get(_ENTRY)
    found = set(noted) if isinstance(noted, list | tuple) else set()
    if recipe is not None and _distorts(recipe):
        distortion = recipe.get("distortion")
        found.update((distortion.get("additive") if isinstance(distortion, Mapping) else None) or ())
    return _in_order(found)


def heard_facts(teacher: str, corpora: Iterable[str]) -> dict[str, list[str]]:
    """What a run notes down in its provenance about noise.

    Args:
        teacher: the source of the model that the run starts from or learns from.
        corpora: that the run itself draws from.

    Returns:
        "noises_heard": the corpora of both; nothing if there are none.
    """
    found = set(corpora)
    if Path(split_source(teacher)[0]).expanduser().exists():
        with torch.random.fork_rng(devices=[]):  # building a model draws weights: the run's draws stay
            _, provenance, recipe = load_any(teacher)
        found.update(noises_heard(provenance, recipe))
    heard = _in_order(found)
    return {_ENTRY: heard} if heard else {}


def _in_order(found: Iterable[object]) -> list[str]:
    return sorted(str(name) for name in found if name not in _NO_CORPUS)


def _distorts(recipe: Mapping[str, Any]) -> bool:
    """Whether the model of a recipe hears its distortions: a student by its cdm, others by `distort`."""
    kind = recipe.get("kind", "distil")
    if kind == "distil":
        return recipe.get("cdm", "none") != "none"
    return kind != "teacher" and recipe.get("distort") is True
