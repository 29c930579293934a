"""Mistakes a user can make and fix; the command line prints them as one line, without a traceback."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

_COLOURS = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)")
_ADVICE = re.compile(
    r"weights.only|allow_pickle|safe_globals|trust|unsafe|insecure|disable|bypass|verify\s*=|_VERIFY|"
    r"arbitrary code|--no-",
    re.IGNORECASE,
)
"""Words of advice to switch off a protection."""


LONGEST_MESSAGE = 2000
"""Letters of a message that quotes a file: the longest that is wholly ours is half of it."""


class UserError(Exception):
    """A foreseeable mistake. The message names what, where and how to fix it, in one line."""

    exit_code = 1
    joint = False
    """Whether all processes raise it together, so that the first one's message is enough."""


class UsageError(UserError):
    """The command or recipe itself is wrong: unknown key, wrong type, impossible combination."""

    exit_code = 2


class _QuotesFiles(UserError):
    """Repeats what a file says, whoever wrote it: one line of printable characters, of a limited length.

    Args:
        message: may have anything in it.
    """

    def __init__(self, message: object = ""):
        text = without_traceback(str(message))
        shown = text if len(text) <= LONGEST_MESSAGE else f"{text[:LONGEST_MESSAGE]}..."
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in shown))


def without_traceback(text: str) -> str:
    """The message alone, if torch has put the traceback of a data worker before it."""
    if text.startswith("Caught "):  # as torch puts it
        text = text.rpartition("\ndistill.errors.")[2].partition(": ")[2] or text.splitlines()[-1]
    return text.strip()


class ConfigError(_QuotesFiles, UsageError):
    """A recipe or override that cannot be understood."""


class CheckpointError(_QuotesFiles):
    """A checkpoint that is missing, malicious or of another kind; says what was found and what expected."""


class DataError(_QuotesFiles):
    """A corpus, manifest or audio file that is missing, empty or unreadable."""


class DamagedFile(DataError, ValueError):
    """A file that cannot be what it should be: cut off, of another kind, or beyond any size that is used."""


class MissingSource(DataError):
    """A source of audio that does not exist.

    The command line, which knows what makes which manifest, replaces `advice`.

    Args:
        message: names it, without advice.
        path: where it should be.
    """

    advice = "name a manifest, TSV or folder of audio"

    def __init__(self, message: str, path: Path | None = None):
        super().__init__(message)
        self.path = path

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.advice}"


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of printable characters.

    Its advice to switch a protection off is left out: that does not fix what was given to us.
    """
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    line = "".join(letter if letter.isprintable() else " " for letter in (lines or [""])[0])
    sentences = re.split(r"(?<=[.!?;:])\s+", line)
    said = list(itertools.takewhile(lambda sentence: not _ADVICE.search(sentence), sentences))
    return " ".join(said).strip() or type(error).__name__


def listed(names: Iterable[Any], limit: int = 3) -> str:
    """Names for a message: the first few, in printable characters, and how many more; "nothing" of none.

    Example:
        >>> listed(["a", "b", "c", "d"])
        'a, b, c and 1 more'
    """
    shown = [repr(str(name))[1:-1][:80] for name in names]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return (", ".join(shown[:limit]) or "nothing") + more


def differing_keys(
    found: Mapping[str, Any], wanted: Mapping[str, Any], *, unstated_ok: bool = True
) -> list[str]:
    """Keys of `wanted` for which `found` has another value.

    Args:
        found: what was noted with something made earlier.
        wanted: what is asked for now.
        unstated_ok: keys that `found` does not have are not compared; else they differ.
    """
    return [key for key, value in wanted.items() if found.get(key, value if unstated_ok else ...) != value]


def refuse_other_settings(
    made: Path | str,
    differing: Sequence[str],
    *,
    advice: str = "choose another --out, or remove it",
    error: type[UserError] = UserError,
) -> None:
    """Refuse to use or continue what was made with other settings than those asked for now.

    Args:
        made: the folder or file.
        differing: which settings, as `differing_keys` or `config.differences` say; none: nothing is refused.
        advice: what the user can do.
        error: what to raise.

    Raises:
        UserError: naming all that differs.
    """
    if differing:
        raise error(f"{made} was made with other settings ({'; '.join(differing)}): {advice}")


def check_finite(options: Any) -> None:
    """Refuse NaN and infinities among the fields of a dataclass; NaN would pass most comparisons.

    Raises:
        ValueError: naming the field.
    """
    for name, value in vars(options).items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{name} must be finite, not {number}")
