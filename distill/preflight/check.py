"""Everything that a recipe needs and that is missing or cannot work, found before training starts."""

from __future__ import annotations

from pathlib import Path

from distill.checkpoints.codebooks import load_codebook
from distill.encoder import EncoderConfig
from distill.errors import CheckpointError, MissingSource
from distill.options import AdaptRecipe, DistillRecipe, Recipe, UnitsConfig
from distill.preflight.check_machine import check_needs, check_out
from distill.preflight.check_sources import HowToMake, check_data
from distill.preflight.check_teacher import check_teacher
from distill.preflight.findings import CheckReport, Finding, missing, wrong
from distill.training.devices import Layout, layout_of

SAMPLE = 2000
"""Files of a source that are opened by default."""


def _name_another(_: Path) -> str:
    return MissingSource.advice


def check(
    recipe: Recipe,
    out: Path | None = None,
    *,
    sample: int | None = SAMPLE,
    how_to_make: HowToMake = _name_another,
) -> CheckReport:
    """Look at everything that a recipe needs, without touching the network.

    Args:
        recipe: of any kind.
        out: its run folder; `runs/NAME` if not given.
        sample: files of each source that are opened: all, or as many random ones (drawn with the recipe's
            seed); None: all. Whether files exist is looked up for all of them.
        how_to_make: what to do about missing sources; `data_prep.advice` knows the commands.

    Returns:
        One finding for each source, the teacher, the options, disk and memory. Problems are collected,
        nothing is raised.
    """
    out = out or Path("runs") / recipe.name
    report = CheckReport(recipe=recipe.name)
    hours, layout = 0.0, layout_of(recipe)
    if recipe.kind != "teacher":
        hours = check_data(recipe, sample, how_to_make, layout.processes * layout.nodes, report)
    config = check_teacher(recipe, report)
    if recipe.kind != "teacher":
        if isinstance(recipe, AdaptRecipe):
            report.findings += _check_targets(recipe, config)
        if isinstance(recipe, DistillRecipe):
            report.findings += _check_units(recipe.objective.units)
        report.findings += [_check_batch(recipe, layout), check_out(out)]
        report.findings += check_needs(recipe, config, out, hours, layout)
    return report


def _check_targets(recipe: AdaptRecipe, config: EncoderConfig | None) -> list[Finding]:
    """The cluster labels of masked prediction."""
    options, findings = recipe.targets, []
    if options.features == "layer" and config is not None and not 1 <= options.layer <= config.layers:
        problem = f"targets.layer is {options.layer}, but the teacher has layers 1 to {config.layers}"
        findings.append(wrong("targets", "no such layer", problem, "choose another targets.layer"))
    if options.codebook and not Path(options.codebook).exists():
        problem = f"targets.codebook: {options.codebook} does not exist"
        findings.append(missing("targets", "no codebook", problem, "correct it, or leave it out"))
    if options.folder:
        lost = [s for s in ("train", "dev") if not (Path(options.folder) / s / "targets.json").is_file()]
        if lost:
            problem = f"targets.folder: {options.folder} has no complete targets for {' and '.join(lost)}"
            fix = f"distill adapt targets {recipe.name} --out {options.folder}"
            findings.append(missing("targets", "not made yet", problem, fix))
    made = f"in {options.folder}" if options.folder else f"{options.clusters} clusters, made in the run"
    return findings or [Finding(what="targets", state="ok", detail=made)]


def _check_units(options: UnitsConfig) -> list[Finding]:
    """The codebook of masked units."""
    if not options.weight or options.codebook is None:
        return []
    try:
        centres = load_codebook(options.codebook)
    except CheckpointError as error:
        fix = "make it with `distill adapt targets`, or correct objective.units.codebook"
        return [missing("units", "no codebook", f"objective.units.codebook: {error}", fix)]
    return [Finding(what="units", state="ok", detail=f"{len(centres)} clusters of layer {options.layer}")]


def _check_batch(recipe: Recipe, layout: Layout) -> Finding:
    size, world = recipe.data.batch_size, layout.processes * layout.nodes
    over = f"over {world} process{'es' if world > 1 else ''}"
    if recipe.data.batch_seconds is not None:
        return Finding(what="batch", state="ok", detail=f"{recipe.data.batch_seconds:g} s of audio {over}")
    if size % world:
        problem = f"data.batch_size {size} (global) is not a multiple of the {world} processes"
        fix = f"data.batch_size={world * max(1, round(size / world))}"
        return wrong("batch", f"{size} utterances {over}", problem, fix)
    return Finding(what="batch", state="ok", detail=f"{size} utterances {over}")
