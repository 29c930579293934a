"""Mistakes a user can make and mend; the command line prints them as one line, without a traceback."""

from __future__ import annotations

import itertools
import re

_COLOURS = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)")
_ADVICE = re.compile(
    r"weights.only|allow_pickle|safe_globals|trust|unsafe|insecure|disable|bypass|verify\s*=|_VERIFY|"
    r"arbitrary code|--no-",
    re.IGNORECASE,
)
"""What advice to switch off a protection speaks of."""


class UserError(Exception):
    """A foreseeable mistake. The message names what, where and how to fix it, in one line."""

    exit_code = 1
    joint = False
    """Whether all processes raise it together: then the first one's line is enough."""


class UsageError(UserError):
    """The command or recipe itself is wrong: unknown key, wrong type, impossible combination."""

    exit_code = 2


class ConfigError(UsageError):
    """A recipe or override that cannot be understood."""


class CheckpointError(UserError):
    """A checkpoint that is missing, malicious or of another kind; says what was found and expected."""


class DataError(UserError):
    """A corpus, manifest or audio file that is missing, empty or unreadable."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line of printable characters.

    Left out is its advice to switch a protection off, which is no way to mend what was given to us.
    """
    lines = _COLOURS.sub("", str(error)).strip().splitlines()
    line = "".join(letter if letter.isprintable() else " " for letter in (lines or [""])[0])
    sentences = re.split(r"(?<=[.!?;:])\s+", line)
    said = list(itertools.takewhile(lambda sentence: not _ADVICE.search(sentence), sentences))
    return " ".join(said).strip() or type(error).__name__
