"""What a recipe may refer to: its own keys, as in `${data.root}`, and nothing else.

Recipes are shared. OmegaConf's resolvers (`${oc.env:NAME}` and others) could put an environment variable of
the user who runs one into the name of a model to download, into logs and into the model card.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from distill.errors import ConfigError

_REFERENCE = re.compile(r"(?<!\\)\$\{[A-Za-z_]\w*(\.[\w-]+|\[[\w-]+\])*\}")


_LARGEST = 2**63 - 1
"""Whole numbers beyond it mean something in Python alone."""


def check_text(text: str, where: str) -> None:
    """Refuse a recipe's text that refers to anything but its own keys, or has control characters.

    Args:
        text: YAML.
        where: the text is from, for errors.

    Raises:
        ConfigError: naming line and key.
        yaml.YAMLError: if it is no YAML.
    """
    for line, key, found in _parsed(text):
        _check(found, f"{where}, line {line}: {key}" if key else f"{where}, line {line}")


def check_override(key: str, value: str) -> None:
    """`check_text` for a `key=value` word."""
    for found in [key, *(found for _, _, found in _parsed(value))]:
        _check(found, f"override {key!r}")


def check_values(values: Any, where: str = "") -> None:
    """`check_text` for parsed values: mappings, lists and what they hold.

    Raises:
        ConfigError: naming the key.
    """
    for key, found in _leaves(values, ""):
        if isinstance(found, str):
            _check(found, f"{where}{key}")
        elif isinstance(found, int) and abs(found) > _LARGEST:
            raise ConfigError(f"{where}{key}: the number has more digits than any that counts something")


def _parsed(text: str) -> Iterator[tuple[int, str, str]]:
    import yaml

    return _scalars(yaml.compose(text, Loader=yaml.SafeLoader), "", set())


def _check(text: str, where: str) -> None:
    if "${" in _REFERENCE.sub("", text):
        raise ConfigError(
            f"{where}: {_short(text)} is not resolved: only a recipe's own keys are, as in ${{data.root}}; "
            "no environment variables, functions or escapes: write the value itself, here or as key=value"
        )
    if any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in text):
        raise ConfigError(f"{where}: {_short(text)} has a control character")
    if any(unicodedata.category(c) == "Cs" for c in text):
        raise ConfigError(f"{where}: {_short(text)} has half a character, which no file can hold")


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}...")


def _scalars(node: Any, key: str, seen: set[int]) -> Iterator[tuple[int, str, str]]:
    """(line, key, text) of each value and key of a YAML document; those of an alias only once."""
    import yaml

    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        yield node.start_mark.line + 1, key, node.value
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _scalars(item, f"{key}[{number}]", seen)
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _scalars(name, f"a key in {key}" if key else "a key", seen)
            yield from _scalars(value, _below(key, getattr(name, "value", "")), seen)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of each value, and of each key, in mappings and lists."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield f"a key in {key}" if key else "a key", str(name)
            yield from _leaves(inner, _below(key, name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{key}[{number}]")
    else:
        yield key, value


def _below(key: str, name: Any) -> str:
    name = str(name)
    return f"{key}.{name}" if key and name.isprintable() else name if name.isprintable() else repr(name)
