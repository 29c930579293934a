"""Perturbations as one writes them: `speed`, `speed=50,100,200`, `background:fsd=20,0`, `pgd=40`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from distill.analysis.probes.adversarial import ATTACKS, GRID, STEPS, Pgd
from distill.analysis.probes.perturbations import (
    GRIDS,
    NOISES,
    SIMPLE,
    Backgrounds,
    Clean,
    Perturbation,
    WhiteNoise,
)
from distill.analysis.recognition import Recogniser
from distill.errors import UsageError

NAMES = (*SIMPLE, "background", *ATTACKS)
"""All kinds of perturbations."""
_WORD = re.compile(r"(?P<name>\w+)(:(?P<source>.+?))?(=(?P<values>[^=]*))?")


def parse_perturbations(
    words: Sequence[str],
    *,
    noises: Mapping[str, Sequence[str]],
    level: float = 1.0,
    absolute: bool = False,
    steps: int = STEPS,
    made_on: Recogniser | None = None,
) -> list[Perturbation]:
    """All values of the perturbations that some words name, each once.

    Clean speech is added where there is an SNR, of which no value is "none at all".

    Args:
        words: `NAME`, with the values of its grid, or `NAME=VALUE,VALUE`; background noise is
            `background:SOURCE`, with one of `NOISES` ("2-dist" if there is none) or any source of audio.
        noises: by corpus, sources of recordings.
        level: of white noise (`WhiteNoise`).
        absolute: whether it is in units of full scale.
        steps: of PGD.
        made_on: the model that adversarial noise is made on; None: each hears its own.

    Raises:
        UsageError: for a word that is none of these, or a value out of range.
        DataError: for missing recordings.
    """
    found: dict[tuple[str, float], Perturbation] = {}
    for word in words:
        name, source, values = _split(word)
        make: Callable[[float], Perturbation]
        if name == "background":
            make = Backgrounds(source or "2-dist", noises)
        elif name == "white_noise":
            make = lambda value: WhiteNoise(value, level=level, absolute=absolute)  # noqa: E731
        elif name == "pgd":
            make = lambda value: Pgd(value, made_on=made_on, steps=steps)  # noqa: E731
        elif name in ATTACKS:
            make = lambda value, name=name: ATTACKS[name](value, made_on=made_on)  # noqa: E731
        else:
            make = SIMPLE[name]
        for each in map(make, values):
            found[each.name, each.value] = each
    clean = [Clean()] if any(each.harder_when_lower for each in found.values()) else []
    return [*clean, *found.values()]


def _split(word: str) -> tuple[str, str, tuple[float, ...]]:
    """Name, source of noise or "", and values."""
    parts = _WORD.fullmatch(word)
    if parts is None or parts["name"] not in NAMES:
        raise UsageError(
            f"--perturb {word}: there are {', '.join(NAMES)}; write NAME, NAME=VALUE,VALUE or "
            f"background:SOURCE, with {', '.join(NOISES)} or a folder"
        )
    name, source, values = parts["name"], parts["source"] or "", parts["values"]
    if source and name != "background":
        raise UsageError(f"--perturb {word}: only background noise has a source")
    if values is None:
        return name, source, GRIDS.get(name, GRID)
    try:
        return name, source, tuple(float(value) for value in values.split(","))
    except ValueError:
        raise UsageError(f"--perturb {word}: expected numbers with commas after {name}=") from None
