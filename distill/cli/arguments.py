"""The words that the verbs of `distill` are described with, and the arguments that several have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.cli import analysing


class Argument:
    """The words of `argparse.ArgumentParser.add_argument`."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names, self.settings = names, settings


@dataclass(frozen=True)
class Verb:
    """One command; the words that call it are its key in `VERBS`."""

    run: Callable[[argparse.Namespace], None]
    help: str
    """One line, without a full stop."""
    example: str
    arguments: tuple[Argument, ...] | type
    """In the order of the help; or a dataclass whose fields they are."""


def sample_size(text: str) -> int | None:
    """A positive number, or None for "all"."""
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a positive number nor all")
    return int(text)


def overrides(help: str = "changes to the recipe") -> Argument:
    """Changes to a recipe, as key=value words."""
    return Argument("overrides", nargs="*", metavar="key=value", help=help)


def seed(help: str) -> Argument:
    """The seed of something."""
    return Argument("--seed", type=int, default=0, help=f"{help} (0)")


def out(help: str, **settings: Any) -> Argument:
    """Where results go."""
    return Argument("--out", type=Path, help=help, **settings)


def condition(help: str) -> Argument:
    """A condition to test under."""
    return Argument("--condition", action="append", help=help)


def training(recipes: str, *more: Argument, together: str = "") -> tuple[Argument, ...]:
    """Of the verbs that train by a recipe, such as those named; `together`: what is said of several."""
    parent = "; of several, the folder that holds theirs (runs)" if together else ""
    return (
        Argument("recipe", nargs="?", help=f"recipe's name ({recipes}) or YAML file{together}"),
        overrides(),
        *more,
        out(f"run folder (runs/NAME){parent}"),
        Argument("--resume", type=Path, metavar="RUN", help="continue an interrupted run"),
        Argument(
            "--override", action="store_true", help="with --resume: continue although the recipe has changed"
        ),
        Argument("--print", action="store_true", help="print the resolved recipe and stop"),
    )


SEEDS = Argument(
    "--seeds",
    nargs="+",
    metavar="N",
    help="a run of each recipe with each of these seeds, in NAME-seedN; data.order_seed=0 lets them share "
    "batches and the teacher's passes",
)
REPLAY = Argument(
    "--replay",
    type=Path,
    metavar="FILE",
    help="make a step again that was not finite, RUN/nonfinite/step-N.ckpt, and say where that begins",
)
CHECKPOINTS = Argument("checkpoints", nargs="+", help="students or teachers")
SPEECH = Argument("--speech", required=True, help="manifest, TSV or folder of audio")
DATA = Argument("--data", help="folder of the prepared corpora (data)")
NOISE = Argument(
    "--noise",
    action="append",
    default=[],
    metavar="CORPUS=SOURCE",
    help="where musan, wham, fsd, dns, speech or rir recordings are; repeat for several",
)
PHONES, WORDS = (
    Argument(
        f"--{tier}",
        nargs="?",
        const=analysing.IN_MANIFEST,
        metavar="SOURCE",
        help=f"times of {tier}: a folder of TextGrids or a CTM file; without SOURCE, in the manifest",
    )
    for tier in ("phones", "words")
)
PHONE_MAP = Argument(
    "--phone-map", metavar="FILE", help="lines SYMBOL <tab> PHONE, for phones of other alphabets"
)
SCORES = Argument(
    "--scores",
    type=Path,
    action="append",
    default=[],
    metavar="EVALUATIONS",
    help="folder of heads on single layers (distill sweep --features layer:K) to compare with; repeatable",
)
UTTERANCES = Argument(
    "--utterances",
    type=sample_size,
    default=200,
    metavar="N|all",
    help="of the speech, at random, the same for all models (200)",
)
BATCH_SIZE = Argument("--batch-size", type=sample_size, default=8, metavar="N", help="utterances at once (8)")
CHOICES = (
    Argument("--protocol", metavar="NAME", help="only results of this one: paper, s3prl"),
    Argument("--variant", metavar="NAME", help="only with distortions as: paper, authors"),
)
"""Which results go into tables, if there are several kinds."""
