"""Mistakes a user can make and mend; the command line prints them as one line, without a traceback."""


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
