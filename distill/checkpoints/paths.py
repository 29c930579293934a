"""Keep paths on the author's machine out of what is released."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

_START = r"(?:file://)?(?:~[\w.-]*)?"
# A text that begins with a path: blanks and all, up to the `?` of a source's conditions.
_LEADING = re.compile(rf"{_START}/[^?]*")
# A path of two parts or more inside a text; after a letter or a slash it is relative or an address.
_INSIDE = re.compile(rf"(?<![\w.~/}}-]){_START}(?:/[^\s/,;:?&|'\"<>()\[\]{{}}]+){{2,}}/?")


def without_absolute_paths(value: Any) -> Any:
    """Plain values with absolute paths reduced to their last part, in keys and inside texts too.

    Args:
        value: text, number, None, or dicts and lists of them.

    Returns:
        The same with "/home/me/runs/t1" as "t1"; relative paths and addresses (https://, s3://) as they are.
    """
    if isinstance(value, dict):
        return {without_absolute_paths(key): without_absolute_paths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_absolute_paths(item) for item in value]
    if isinstance(value, str):
        leading = _LEADING.match(value)
        name = PurePath(leading[0]).name if leading else ""
        rest = value[leading.end() :] if leading else value
        return name + _INSIDE.sub(lambda found: PurePath(found[0]).name, rest)
    return value
