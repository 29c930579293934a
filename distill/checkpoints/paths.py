"""Keep the places of files on their author's machine out of what is released."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Any

_START = r"(?:file://)?(?:~[\w.-]*)?"
# A text that is a path: blanks and all, up to the `?` before the conditions of a source.
_WHOLE = re.compile(rf"{_START}/[^?]*")
# A path of two parts or more inside a text; behind a letter or a slash it is relative or an address.
_INSIDE = re.compile(rf"(?<![\w.~/}}-]){_START}(?:/[^\s/,;:?&|'\"<>()\[\]{{}}]+){{2,}}/?")


def without_places(value: Any) -> Any:
    """Plain values with absolute paths reduced to their last part, in keys and inside texts too.

    Args:
        value: text, number, None, or dicts and lists of them.

    Returns:
        The same with "/home/me/runs/t1" as "t1"; relative paths and addresses (https://, s3://) as they are.
    """
    if isinstance(value, dict):
        return {without_places(key): without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(item) for item in value]
    if isinstance(value, str):
        whole = _WHOLE.match(value)
        start = PurePath(whole[0]).name if whole else ""
        return start + _INSIDE.sub(
            lambda found: PurePath(found[0]).name, value[whole.end() if whole else 0 :]
        )
    return value
