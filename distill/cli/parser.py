"""The argument parser of `distill`, made from the table of its verbs.

argparse, and not jsonargparse or tyro, which make parsers from dataclasses and functions: they would have to
import those first, and with them torch, before `distill --help` or a misspelt option could be answered, and
they print several lines where one says what is wrong. Recipes have their own `key=value` words, with the
nearest valid name in errors (`distill.config`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from distill.cli.fields import add_fields
from distill.cli.verbs import GROUPS, VERBS, Verb


def build_parser() -> argparse.ArgumentParser:
    """All verbs with their options."""
    from distill import __version__

    parser = argparse.ArgumentParser(
        prog="distill",
        description="Distil HuBERT into a small speech model that keeps working in noise.",
        epilog="completion by bash, zsh and fish: distill completion --help",
    )
    parser.add_argument("--version", action="version", version=f"distill {__version__}")
    parser.set_defaults(run=None, parser=parser)
    top = parser.add_subparsers(title="verbs", metavar="VERB")
    groups: dict[str, Any] = {}
    for words, verb in VERBS.items():
        group, _, word = words.rpartition(" ")
        if group in GROUPS:
            groups[group] = groups.get(group) or _add_group(top, group)
            _add_verb(groups[group], word, words, verb)
        else:  # "adapt targets" is a verb of two words next to one of the first alone
            _add_verb(top, words, words, verb)
    return parser


def _add_group(top: Any, group: str) -> Any:
    """The first word of several verbs; alone it prints help."""
    parser = top.add_parser(group, help=GROUPS[group])
    parser.set_defaults(run=lambda _: parser.print_help())
    return parser.add_subparsers(title="verbs", metavar="VERB")


def _add_verb(verbs: Any, word: str, words: str, verb: Verb) -> None:
    parser = verbs.add_parser(
        word,
        help=verb.help,
        description=verb.help[0].upper() + verb.help[1:] + ".",
        epilog=f"example:\n  {verb.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=verb.run, verb=words)
    if isinstance(verb.arguments, type):
        add_fields(parser, verb.arguments)
        return
    for argument in verb.arguments:
        parser.add_argument(*argument.names, **argument.settings)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Command-line words -> options; ends the process if they are wrong, as argparse does."""
    if [*words[:2]] == ["adapt", "targets"]:
        words = ["adapt targets", *words[2:]]
    options, extra = parser.parse_known_args(words)
    if extra:  # argparse gives up on words that follow an option
        takes_more = next((name for name in ("overrides", "students") if hasattr(options, name)), None)
        if takes_more is None or any(word.startswith("-") for word in extra):
            parser.error(f"unrecognized arguments: {' '.join(extra)}")
        setattr(options, takes_more, [*getattr(options, takes_more), *extra])
    return options
