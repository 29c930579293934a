"""Choice of a table's results: one protocol, one variant, one learning rate; never averages over several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from distill.downstream.results import METRICS, Result
from distill.downstream.table_notes import Notes, is_distorted
from distill.errors import UserError

TEACHERS = ("T1", "T1'")
"""Rows whose numbers in the paper are most probably SUPERB's, with the weighted sum of all layers."""


def choose(
    results: Iterable[Result], *, protocol: str | None = None, variant: str | None = None
) -> list[Result]:
    """The results of one protocol and one variant of the distortions.

    Args:
        results: of any tasks.
        protocol: the one to keep; None: each table must have only one.
        variant: the same; results on clean and recorded speech, which have none, are kept.

    Raises:
        UserError: if a table would have several, or no result is of the chosen one.
    """
    kept, several = list(results), dict[str, tuple[str, list[str]]]()
    for name, wanted in (("protocol", protocol), ("variant", variant)):
        asked = [result for result in kept if name == "protocol" or is_distorted(result.condition)]
        if wanted is None:
            several |= _several(name, asked)
        elif asked and wanted not in (found := {getattr(result, name) for result in asked}):
            raise UserError(f"no result is of {name} {wanted}; there are those of {', '.join(sorted(found))}")
        others = [result for result in asked if wanted not in (None, getattr(result, name))]
        dropped = set(map(id, others))
        kept = [result for result in kept if id(result) not in dropped]
    if several:
        raise UserError(_ask(several))
    return kept


def _several(name: str, results: Iterable[Result]) -> dict[str, tuple[str, list[str]]]:
    """By name, the first task that has results of several values, and the values."""
    by_task: dict[str, set[str]] = defaultdict(set)
    for result in results:
        by_task[result.task].add(getattr(result, name))
    return next(
        ({name: (task, sorted(found))} for task, found in by_task.items() if len(found) > 1),
        {},
    )


def _ask(several: Mapping[str, tuple[str, list[str]]]) -> str:
    """The message that asks for the choices."""
    said = before = ""
    for name, (task, found) in several.items():
        said += ", and of" if task == before else f"{'; ' if said else ''}{task}: there are results of"
        said, before = f"{said} {name} {' and '.join(found)}", task
    options = ", and ".join(
        " or ".join(f"--{name} {one}" for one in found) for name, (_, found) in several.items()
    )
    return f"{said}, which are not averaged: choose with {options}, or name the folders of one of them only"


def compared_features(name: str, available: Iterable[str]) -> str:
    """The features whose results stand next to the paper's numbers of a row.

    Args:
        name: of the row.
        available: features of its results.
    """
    return "weighted_sum" if name in TEACHERS and "weighted_sum" in available else "last"


def note_features(name: str, label: str, features: str, available: Iterable[str], notes: Notes) -> None:
    """Note which features stand next to the paper's numbers of a teacher."""
    if name not in TEACHERS or features not in ("last", "weighted_sum"):
        return
    if features == "weighted_sum":
        notes.add("heads on the weighted sum of all layers, as the paper's most probably are", label)
    elif "weighted_sum" not in available:
        text = "heads on the last layer; the paper's are most probably on the weighted sum of all layers"
        notes.add(f"{text}: evaluate with --features weighted_sum", label)


def choose_lr(results: Sequence[Result], label: str, notes: Notes) -> list[Result]:
    """The results of the learning rate that is best on dev, as in SUPERB, if there are several.

    Args:
        results: of one row.
        label: of the row.
        notes: the choice is added here.

    Raises:
        UserError: if a head has several rates and their scores on dev are not known.
    """
    by_lr: dict[float, list[Result]] = defaultdict(list)
    for result in results:
        if isinstance(lr := result.settings.get("lr"), int | float):
            by_lr[float(lr)].append(result)
    if len(by_lr) < 2:
        return list(results)
    if any(result.dev is None for members in by_lr.values() for result in members):
        _refuse_unknown(by_lr, label)
        return list(results)
    scores = {lr: _dev_scores(members) for lr, members in sorted(by_lr.items())}
    common = set.intersection(*map(set, scores.values()))
    means = {}
    for lr, found in scores.items():
        counted = [score for head, score in found.items() if head in common or not common]
        means[lr] = sum(counted) / len(counted)
    pick = max if METRICS[results[0].metric].endswith("higher is better") else min
    best = pick(means, key=lambda lr: means[lr])
    others = ", ".join(f"{lr:g}: {mean:.2f}" for lr, mean in means.items() if lr != best)
    text = f"lr {best:g}, chosen on dev ({means[best]:.2f}; {others})"
    if any(set(found) != common for found in scores.values()):
        text += (
            f", compared on the seeds and folds of all ({len(common)})" if common else ", on different seeds"
        )
    left_out = {result.seed for result in results} - {result.seed for result in by_lr[best]}
    if left_out:
        text += f"; seed {', '.join(map(str, sorted(left_out)))} has no head of it and is left out"
    notes.add(text, label)
    return by_lr[best]


def _dev_scores(results: Iterable[Result]) -> dict[tuple[int, int | None], float]:
    """Scores on dev, by seed and fold."""
    return {(result.seed, result.fold): result.dev for result in results if result.dev is not None}


def _refuse_unknown(by_lr: Mapping[float, Sequence[Result]], label: str) -> None:
    """Refuse several rates of one seed and fold; those of different seeds are noted elsewhere."""
    heads = [head for members in by_lr.values() for head in {(r.seed, r.fold) for r in members}]
    if len(heads) > len(set(heads)):
        rates = ", ".join(f"{lr:g}" for lr in sorted(by_lr))
        raise UserError(
            f"{label}: there are results of lr {rates} without their score on dev, so that none can be "
            "chosen: name the folders of one of them only, or evaluate again"
        )
