"""Placeholders for utterances that cannot be used: cuts that say why, and that `read_audio` refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lhotse import MonoCut
from lhotse.cut import Cut

_UNUSABLE = "unusable!"  # custom field of a cut; no column of a table is called that


def unusable_cut(name: str, why: str, custom: Mapping[str, Any]) -> MonoCut:
    """A placeholder of nominally a second for an utterance that cannot be used.

    Args:
        name: its id.
        why: with the name of the file or line.
        custom: fields that it would have had.
    """
    return MonoCut(name, start=0, duration=1.0, channel=0, custom={**custom, _UNUSABLE: why})


def why_unusable(cut: Cut) -> str:
    """Why a cut is a placeholder, with the name of the file or line; "" for a cut that can be used."""
    return (getattr(cut, "custom", None) or {}).get(_UNUSABLE, "")


def blame(name: str, why: str, *, quoted: bool = False) -> str:
    """An utterance or recording and what is wrong with it, for messages.

    The name of a line that is not a cut (`unusable_line`) is left out, as the reason has it, too.

    Args:
        name: its id, or as lists of skipped files have it: "dev ID".
        why: the reason, without the name.
        quoted: put the name in quotation marks, as it may read like a word of the sentence.
    """
    line = re.search(r"\bline (\d+) of (.+)$", name)
    if line and f"{line[2]}, line {line[1]}: " in why:
        return why
    return f"{name!r}: {why}" if quoted else f"{name}: {why}"
