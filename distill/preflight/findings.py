"""What a check found, and how it is shown."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Literal

State = Literal["ok", "note", "missing", "wrong"]

WIDTH = 80  # of the table, in columns
_WHAT = 36  # at most, of its first column


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report."""

    what: str
    """What was checked."""
    state: State
    """ "ok", "note" (worth knowing, does not stop a run), "missing" or "wrong"."""
    detail: str
    """A few words for the table."""
    problem: str = ""
    """What exactly is missing or wrong: one or several lines."""
    fix: str = ""
    """What to do about it: a command, or a sentence."""
    more: str = ""
    """Printed below `detail`; may be long."""


def missing(what: str, detail: str, problem: str, fix: str) -> Finding:
    """A finding about something that does not exist."""
    return Finding(what=what, state="missing", detail=detail, problem=problem, fix=fix)


def wrong(what: str, detail: str, problem: str, fix: str) -> Finding:
    """A finding about something that exists, or was asked for, and cannot work."""
    return Finding(what=what, state="wrong", detail=detail, problem=problem, fix=fix)


@dataclass(kw_only=True)
class CheckReport:
    """What `check` found; as a string, the table that the command line prints."""

    recipe: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def problems(self) -> list[Finding]:
        """The findings that stop a run."""
        return [finding for finding in self.findings if finding.state in ("missing", "wrong")]

    @property
    def ok(self) -> bool:
        """Whether training can start."""
        return not self.problems

    def __str__(self) -> str:
        whats = [_shortened(finding.what, _WHAT) for finding in self.findings]
        width = max(map(len, whats), default=0)
        room = WIDTH - width - len("  missing  ")
        lines = []
        for what, finding in zip(whats, self.findings, strict=True):
            head = f"{what:<{width}}  {finding.state:<7}  "
            lines.append(f"{head}{_shortened(finding.detail, room)}".rstrip())
            lines += _wrapped(finding.more, " " * len(head), " " * len(head))
        for finding in self.findings:
            if finding.state == "note" and finding.fix:
                lines += _wrapped(f"{finding.what}: {finding.fix}", "note: ", "      ")
        if self.ok:
            return "\n".join([*lines, "", f"{self.recipe}: ready"])
        return "\n".join([*lines, "", *self._to_do()])

    def _to_do(self) -> list[str]:
        count = len(self.problems)
        lines = [f"{self.recipe}: {count} problem{'s' if count > 1 else ''}"]
        for number, finding in enumerate(self.problems, start=1):
            head, *more = finding.problem.splitlines()
            lines += _wrapped(f"{finding.what.partition(': ')[0]}: {head}", f"{number:>2}. ", "    ")
            lines += [f"    {line}" for line in more]
        lines += ["What to do:"]
        for fix in dict.fromkeys(finding.fix for finding in self.problems):
            is_command = fix.startswith("distill ")  # not wrapped, so that it can be copied
            lines += [f"  {fix}"] if is_command else _wrapped(fix, "  ", "    ")
        return lines


def _shortened(text: str, width: int) -> str:
    text = " ".join(text.splitlines())  # names of files may have several
    return text if len(text) <= width else text[: width - 1] + "…"


def _wrapped(text: str, first: str, then: str) -> list[str]:
    """Lines of the table's width; paths and commands are not broken."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
