"""What the values of a result must be: types and ranges, checked once, when its file is read.

Tables, reports and model cards compute with results and print them, whoever wrote them; nothing behind this
check needs to ask whether a number is one. Keys that are not named here may hold anything: they are compared
and printed, no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, TypedDict, Union, get_args, get_origin, get_type_hints, is_typeddict

from distill.options.spiral import ContrastConfig, EmaConfig, HeadsConfig
from distill.spiral.perturbation import SpecAugment

MOST_LETTERS = 4096
"""Of a name or another text: the longest path has as many bytes."""
MOST_ENTRIES = 100_000
"""Of a list or an object: units of a vocabulary are the most that ours hold."""
LARGEST = float(2**63)
"""Whole numbers beyond it fit into no other program, and into no float."""
MOST_PERCENT = 1e5
"""Of an error rate: insertions may well make it exceed 100 %, but not by so much."""


class Pretraining(TypedDict, total=False):
    """How the encoder of a fine-tuned model was made (`finetuning.facts.described`)."""

    name: str | None
    kind: str | None
    train: list[str] | None
    steps: int | None
    mct: bool | None
    start: str | None
    ema: EmaConfig | None
    heads: HeadsConfig | None
    shift: int
    masking: SpecAugment | None
    contrast: ContrastConfig | None


Settings = TypedDict(
    "Settings",
    {
        "batch_size": float | None,
        "lr": float | None,
        "every_n_steps": float | None,
        "width": float | None,
        "crop_s": float | None,
        "label": str | None,
        "sources": dict[str, Any] | None,
        "noises": dict[str, Any] | None,
        "family": str | None,
        "encoder parameters": int | None,
        "finetuning speech": list[str] | None,
        "pretraining": Pretraining | None,
        "units": str | None,
        "lm order": int | None,
        "lm units": str | None,
        "snr_db": list[float] | None,
        "test": str | None,
    },
    total=False,
)
"""The settings of a score that tables compute with, look up or name (`Result.settings`)."""


def check(value: Any, kind: Any, name: str) -> Any:
    """Refuse a value of another type, a number that is not finite or too large, a text that is too long.

    Args:
        value: parsed JSON.
        kind: a type, `X | None`, `list[X]`, `dict[str, X]`, a TypedDict, `Any`; or a dataclass, of which a
            mapping states some of the fields.
        name: of the value, for the error.

    Returns:
        The value.

    Raises:
        ValueError: naming the value, or the one inside it.
    """
    if kind is Any:
        return value
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (each for each in get_args(kind) if each is not NoneType)
        return None if value is None else check(value, kind, name)
    if is_typeddict(kind) or is_dataclass(kind):
        check(value, dict[str, Any], name)
        for key, inner in get_type_hints(kind).items():
            if key in value:
                check(value[key], inner, f"{name}.{key}")
        return value
    _check_plain(value, get_origin(kind) or kind, name)
    if isinstance(value, Mapping):
        for key, each in value.items():
            check(key, str, f"a key of {name}")
            check(each, get_args(kind)[1], f"{name}.{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            check(each, get_args(kind)[0], f"{name}[{number}]")
    return value


def _check_plain(value: Any, kind: type, name: str) -> None:
    """`check` for one type without parameters."""
    fits = isinstance(value, (int, float) if kind is float else kind)
    if not fits or (isinstance(value, bool) and kind is not bool):  # to Python True is an int
        raise ValueError(f"{name} is {shortened(value)}")
    if isinstance(value, int | float) and not -LARGEST < value < LARGEST:  # NaN is neither
        raise ValueError(f"{name} is {shortened(value)}, which is no finite number of a usual size")
    if isinstance(value, str) and len(value) > MOST_LETTERS:
        raise ValueError(f"{name} has {len(value):,} letters")
    if isinstance(value, dict | list) and len(value) > MOST_ENTRIES:
        raise ValueError(f"{name} has {len(value):,} entries")


def check_percent(value: float | None, name: str, *, error_rate: bool) -> None:
    """Refuse a score that no test can have.

    Raises:
        ValueError: naming it.
    """
    most = MOST_PERCENT if error_rate else 100.0
    if value is not None and not 0.0 <= value <= most:
        raise ValueError(f"{name} is {value:g}, which is not from 0 to {most:g} %")


def shortened(value: Any) -> str:
    """A value for an error, in one line and not too long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
