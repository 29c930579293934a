"""Placeholders for utterances that cannot be used: cuts that say why, and that `read_audio` refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lhotse import MonoCut
from lhotse.cut import Cut

_UNUSABLE = "unusable!"  # custom field of a cut; no column of a table is called that


def unusable_cut(name: str, why: str, custom: Mapping[str, Any]) -> MonoCut:
    """A cut in the place of an utterance that cannot be used, of nominally a second; none can be read."""
    return MonoCut(name, start=0, duration=1.0, channel=0, custom={**custom, _UNUSABLE: why})


def why_unusable(cut: Cut) -> str:
    """What was wrong with a file or line when its source was opened, with its name; "" if nothing."""
    return (getattr(cut, "custom", None) or {}).get(_UNUSABLE, "")


def blame(name: str, why: str, *, quoted: bool = False) -> str:
    """An utterance or recording and what is wrong with it.

    A line of a manifest that is no cut has no name of its own (`unusable_line`): why says where it is.

    Args:
        name: its id, or as lists have it: "dev ID".
        why: not beginning with it.
        quoted: put the name in quotation marks: it may read like a word of the sentence.
    """
    line = re.search(r"\bline (\d+) of (.+)$", name)
    if line and f"{line[2]}, line {line[1]}: " in why:
        return why
    return f"{name!r}: {why}" if quoted else f"{name}: {why}"
