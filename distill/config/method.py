"""Which settings of a recipe are its method: not where files are, how it is logged, or which draw it is."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from distill.config import flat, load, recipe_names
from distill.options import Recipe
from distill.options.shared import last_part

_NO_METHOD = ("name", "description", "teacher", "seed", "data", "validation", "logging", "trainer")
_AFTERWARDS = ("tests", "decoding")
"""Keys and sections that make no other model; of `data`, `_OF_DATA` is kept."""
_OF_DATA = ("data.batch_size", "data.batch_seconds", "data.max_samples", "data.min_samples")
_MACHINE = ("student.activation_checkpointing", "distortion.where", "optim.max_nonfinite")
"""What changes memory and speed, or when a run gives up."""
_SHORT = 60
"""Letters of a change that is shown as it is."""
_FILES = ("objective.units.codebook", "targets.codebook", "targets.folder")


def method_of(recipe: Recipe) -> list[str]:
    """The method of a recipe, as "key.path=value" words; defaults are left out.

    Example:
        >>> method_of(load("s4"))[0]
        'cdm=setup2'
    """
    own, defaults = flat(asdict(recipe)), _defaults(type(recipe))
    found = {key: own[key] for key in own if _is_method(key) and own[key] != defaults.get(key)}
    speech = _speech(recipe)
    found |= {"data.train": speech} if speech else {}
    return [f"{key}={_written(value)}" for key, value in found.items()]


def _speech(recipe: Recipe) -> list[str]:
    """The training speech, without the folders in which it lies on this machine."""
    root = f"{recipe.data.root.rstrip('/')}/"
    names = []
    for source in recipe.data.train:
        location, mark, query = source.partition("?")
        inside = location.startswith(root)
        location = location.removeprefix(root) if inside else last_part(location)
        names.append(location + mark + re.sub(r"[^=&]*/", "", query))
    return speech_names(names)


@functools.cache
def _defaults(kind: type[Recipe]) -> dict[str, Any]:
    return flat(asdict(kind()))


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_method(key: str) -> bool:
    return key in _OF_DATA or (
        key.partition(".")[0] not in (*_NO_METHOD, *_AFTERWARDS) and key not in (*_MACHINE, *_FILES)
    )


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
    before, own = _by_key(shipped), _by_key(method)
    defaults = {key: _written(value) for key, value in _defaults(kind).items()}
    old, new = defaults | before, defaults | own
    return [
        f"{key}: {_change(old.get(key, 'not set'), new.get(key, 'not set'))}"
        for key in sorted(before.keys() | own.keys())
        if old.get(key) != new.get(key)
    ]


def _change(old: str, new: str) -> str:
    """Of long lists, what was left out and added."""
    both = f"{old} -> {new}"
    if len(both) <= _SHORT:
        return both
    try:
        before, after = json.loads(old), json.loads(new)
    except (ValueError, RecursionError):
        return both
    if not isinstance(before, list) or not isinstance(after, list):
        return both
    changes = {
        "without": [x for x in before if x not in after],
        "with": [x for x in after if x not in before],
    }
    said = [f"{word} {', '.join(map(str, which))}" for word, which in changes.items() if which]
    return "; ".join(said) or "in another order"


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
