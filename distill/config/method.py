"""Which settings of a recipe are its method: not where files are, how it is logged, or which draw it is."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from distill.config import flat, load, recipe_names
from distill.options import Recipe

_NO_METHOD = ("name", "description", "teacher", "data", "validation", "logging", "trainer", "seed", "tests")
"""Keys and sections; of `data`, `_OF_DATA` is kept."""
_OF_DATA = ("data.batch_size", "data.batch_seconds", "data.max_samples", "data.min_samples")
_MACHINE = ("student.activation_checkpointing", "distortion.where", "optim.max_nonfinite")
"""What changes memory and speed, or when a run gives up."""
_FILES = ("objective.units.codebook", "targets.codebook", "targets.folder")


def method_of(recipe: Recipe) -> list[str]:
    """The method of a recipe, as "key.path=value" words; defaults are left out.

    Example:
        >>> method_of(load("s4"))[0]
        'cdm=setup2'
    """
    own, defaults = flat(asdict(recipe)), _defaults(type(recipe))
    found = {key: own[key] for key in own if _is_method(key) and own[key] != defaults.get(key)}
    root = f"{recipe.data.root.rstrip('/')}/"
    speech = speech_names(source.removeprefix(root) for source in recipe.data.train)
    found |= {"data.train": speech} if speech else {}
    return [f"{key}={_written(value)}" for key, value in found.items()]


@functools.cache
def _defaults(kind: type[Recipe]) -> dict[str, Any]:
    return flat(asdict(kind()))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_method(key: str) -> bool:
    return key in _OF_DATA or (key.partition(".")[0] not in _NO_METHOD and key not in (*_MACHINE, *_FILES))


def method_facts(recipe: Recipe) -> dict[str, Any]:
    """What a run notes down in its provenance about its recipe.

    Returns:
        "recipe", its name; "recipe_settings", its method; if another one ships under that name,
        "recipe_changes" (`changes_of`).
    """
    method = method_of(recipe)
    changes = changes_of(recipe.name, method)
    facts: dict[str, Any] = {"recipe": recipe.name, "recipe_settings": method}
    return facts | ({"recipe_changes": changes} if changes else {})


def changes_of(name: str, method: Iterable[str]) -> list[str]:
    """What a method has changed of the recipe that ships under a name, as "key: shipped -> own".

    Args:
        name: of a recipe; of one that does not ship nothing is known, and nothing returned.
        method: see `method_of`.
    """
    if name not in recipe_names():
        return []
    kind, shipped = _shipped(name)
    own, before = _by_key(method), _by_key(shipped)
    defaults = {key: _written(value) for key, value in _defaults(kind).items()}
    values = [
        (key, *(words.get(key, defaults.get(key, "not set")) for words in (before, own)))
        for key in sorted(before.keys() | own.keys())
    ]
    return [f"{key}: {old} -> {new}" for key, old, new in values if old != new]


@functools.cache
def _shipped(name: str) -> tuple[type[Recipe], tuple[str, ...]]:
    recipe = load(name)
    return type(recipe), tuple(method_of(recipe))


def _by_key(words: Iterable[str]) -> dict[str, str]:
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def speech_names(sources: Iterable[Any]) -> list[str]:
    """Names of speech by its sources, sorted: "librispeech/train-clean-100" of DATA/librispeech/...jsonl.gz.

    What follows a "?" stays.
    """
    names = []
    for source in sources:
        location, mark, query = str(source).partition("?")
        path = PurePath(location)
        stem = path.name
        for suffix in (".gz", ".jsonl", ".tsv"):
            stem = stem.removesuffix(suffix)
        names.append("/".join([path.parent.name, stem] if path.parent.name else [stem]) + mark + query)
    return sorted(names)
