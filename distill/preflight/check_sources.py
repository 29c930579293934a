"""Speech and noise: every manifest, table and folder that training opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from distill.data.sources import split_query
from distill.options import DistillRecipe, FinetuneRecipe, Recipe
from distill.options.shared import last_part
from distill.preflight.findings import CheckReport, Finding, missing, wrong
from distill.preflight.survey import Kind, Survey, survey

_NAMED = 5  # bad files of a source that are named, at most

HowToMake = Callable[[Path], str]
"""What to do about a source that does not exist, by its path."""


def check_data(
    recipe: Recipe, sample: int | None, how_to_make: HowToMake, processes: int, report: CheckReport
) -> float:
    """Add findings about every source that training opens to a report; return the hours of speech."""
    surveys: dict[str, Survey] = {}  # by source: noise of dev is often that of training, one line is enough
    hours = 0.0
    for role, sources in _sources(recipe):
        if not sources:
            report.findings.append(_not_given(role))
        for source in sources or ():
            if source in surveys:
                continue
            surveys[source] = survey(source, sample=sample, seed=recipe.seed, kind=_kind(role))
            what, tolerated = f"{role}: {short_name(source)}", recipe.data.max_bad_fraction
            report.findings.append(source_finding(what, source, surveys[source], tolerated, how_to_make))
            hours += surveys[source].hours if role in ("train", "dev") else 0.0
        count = sum(surveys[source].utterances for source in sources or ())
        if role in ("train", "dev") and 0 < count < processes:
            problem = f"data.{role} has {count} utterances for {processes} processes"
            fix = f"use fewer (trainer.devices, trainer.num_nodes), or name more speech in data.{role}"
            report.findings.append(wrong(role, f"fewer than {processes} processes", problem, fix))
    return hours


def _sources(recipe: Recipe) -> list[tuple[str, list[str] | None]]:
    """(key in the data section, its sources) of all that training opens."""
    data = recipe.data
    wanted: list[tuple[str, list[str] | None]] = [("train", data.train), ("dev", data.dev)]
    if _distorts(recipe):
        for split, itself in (("train", data.train), ("dev", data.dev)):
            key, given = data.noises_of(split)
            sources = {"speech": itself, **given}
            wanted += [(f"{key}.{name}", sources.get(name)) for name in recipe.distortion.corpora]
    for name, test in recipe.tests.items() if isinstance(recipe, FinetuneRecipe) else ():
        wanted.append((f"tests.{name}", test.sources or None))
        wanted += [(f"tests.{name}.{corpus}", sources) for corpus, sources in test.noises.items()]
    return wanted


def _kind(role: str) -> Kind:
    if role in ("train", "dev") or (role.startswith("tests.") and role.count(".") == 1):
        return "speech"
    return "rooms" if role.endswith(".rir") else "noise"


def _distorts(recipe: Recipe) -> bool:
    if isinstance(recipe, DistillRecipe):
        return recipe.cdm != "none"
    return bool(getattr(recipe, "distort", False))


def _not_given(role: str) -> Finding:
    if role.startswith("tests."):
        problem = f"{role}.sources is empty"
        return missing(role, "no source given", problem, f"name a manifest, TSV or folder in {role}.sources")
    corpus = role.partition(".")[2]
    advice = f"name a manifest, TSV or folder in data.{role}"
    if not corpus:
        return missing(role, "no source given", f"data.{role} is empty", advice)
    instead = "set distortion.rir=false" if corpus == "rir" else f"leave {corpus} out of distortion.additive"
    problem = f"{corpus} is drawn, but data.{role} is not set"
    return missing(role, "no source given", problem, f"{advice}, or {instead}")


def short_name(source: str) -> str:
    """Name of a source for the report's first column."""
    name = last_part(source)
    return name.removesuffix(".gz").removesuffix(".jsonl")


def source_finding(
    what: str,
    source: str,
    found: Survey,
    tolerated: float,
    how_to_make: HowToMake,
    key: str = "data.max_bad_fraction",
) -> Finding:
    """The finding about one manifest, TSV or folder, of which a share of files may be bad.

    Args:
        what: name for the report.
        source: manifest, TSV or folder.
        found: in it.
        tolerated: share of bad files that training skips instead of stopping.
        how_to_make: as for `check`.
        key: the option that sets this share.
    """
    path = Path(split_query(source)[0])
    if not found.exists:
        return missing(what, "does not exist", found.error, how_to_make(path))
    if found.error:
        return wrong(what, "cannot be used", _listed(found.error, found.bad), f"repair or replace {path}")
    hours = f"{found.hours:.{1 if found.hours >= 1 else 2}f} h"
    extent = ""
    if found.looked_at < found.utterances:
        extent = f"{found.looked_at} of {found.utterances} files looked at"
    if not found.bad:
        state = "note" if found.unprepared else "ok"
        detail = f"{found.utterances} utterances, {hours}"
        existing = "all" if found.looked_for == found.utterances else found.looked_for
        more = f"{extent}, {existing} exist" if extent else ""
        return Finding(what=what, state=state, detail=detail, fix=found.unprepared, more=more)
    detail = f"{len(found.bad)} bad of {found.utterances}, {hours}"
    if found.bad_share <= tolerated:
        some = f"training skips them, up to {key}={tolerated:g}: "
        some += "; ".join([*_few(found.bad), *filter(None, [found.unprepared])])
        return Finding(what=what, state="note", detail=detail, fix=some, more=extent)
    head = f"{len(found.bad)} bad files in {source}" + (f" ({extent})" if extent else "")
    if found.unprepared:
        head += f"; {found.unprepared}"
    fix = f"restore the files, or make {path} again without them"
    return missing(what, detail, _listed(head, found.bad), fix)


def _listed(head: str, lines: Sequence[str]) -> str:
    return "\n".join([head, *_few(lines)])


def _few(lines: Sequence[str]) -> list[str]:
    more = [f"and {len(lines) - _NAMED} more"] if len(lines) > _NAMED else []
    return [*lines[:_NAMED], *more]
