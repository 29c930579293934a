"""Is everything there that a recipe needs? All that is missing or cannot work, before training starts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from distill.checkpoints import huggingface, load_teacher, split_source
from distill.checkpoints import torchaudio as bundles
from distill.config import recipe_names
from distill.data.parcels import SHARED_MEMORY, most_open_files
from distill.data.sources import split_query
from distill.devices import Layout, layout_of
from distill.errors import CheckpointError, MissingSource, UserError
from distill.hubert import PRESETS, HubertConfig
from distill.options import AdaptRecipe, DistillRecipe, Recipe
from distill.preflight.findings import CheckReport, Finding, missing, wrong
from distill.preflight.needs import Needs, available_memory, estimate, targets_bytes
from distill.preflight.survey import Kind, Survey, survey
from distill.training.run_folder import check_run_folder

_LESS_MEMORY = "optim.accumulate=2 halves what a step needs, fewer data.workers need less"
SAMPLE = 2000
"""Files of a source that are opened, unless it is said otherwise."""
_NAMED = 5  # files of a source that are named
_PUBLISHED = {  # what is on the hub and in torchaudio under these names
    "facebook/hubert-base-ls960": "base",
    "facebook/hubert-large-ll60k": "large",
    "HUBERT_BASE": "base",
    "HUBERT_LARGE": "large",
}
_MEGABYTES = {"base": 378, "large": 1266}  # of their float32 weights


HowToMake = Callable[[Path], str]
"""What to do about a source that does not exist, by its path."""


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
            seed); None: all. Whether files are there is asked for all of them.
        how_to_make: what to do about missing sources; `data_prep.advice` knows the commands.

    Returns:
        One finding for each source, the teacher, the options, disk and memory. Problems are collected,
        nothing is raised.
    """
    out = out or Path("runs") / recipe.name
    report = CheckReport(recipe=recipe.name)
    hours, layout = 0.0, layout_of(recipe)
    if recipe.kind != "teacher":
        hours = _check_data(recipe, sample, how_to_make, layout.processes * layout.nodes, report)
    config = _check_teacher(recipe, report)
    if recipe.kind != "teacher":
        if isinstance(recipe, AdaptRecipe):
            report.findings += _check_targets(recipe, config)
        report.findings += [_check_batch(recipe, layout), _check_out(out)]
        report.findings += _check_needs(recipe, config, out, hours, layout)
    return report


# ---------------------------------------------------------------------------------------------- speech, noise


def _check_data(
    recipe: Recipe, sample: int | None, how_to_make: HowToMake, processes: int, report: CheckReport
) -> float:
    """Every source that training opens; returns the hours of speech."""
    surveys: dict[str, Survey] = {}  # noise of dev is often that of training: one line is enough
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
    """(key in data, its sources) of all that training opens."""
    data = recipe.data
    wanted: list[tuple[str, list[str] | None]] = [("train", data.train), ("dev", data.dev)]
    if _distorts(recipe):
        for key, given in (("noises", data.noises), ("dev_noises", data.dev_noises or data.noises)):
            wanted += [(f"{key}.{name}", given.get(name)) for name in recipe.distortion.corpora]
    return wanted


def _kind(role: str) -> Kind:
    if role in ("train", "dev"):
        return "speech"
    return "rooms" if role.endswith(".rir") else "noise"


def _distorts(recipe: Recipe) -> bool:
    if isinstance(recipe, DistillRecipe):
        return recipe.cdm != "none"
    return isinstance(recipe, AdaptRecipe) and recipe.distort


def _not_given(role: str) -> Finding:
    corpus = role.partition(".")[2]
    advice = f"name a manifest, TSV or folder in data.{role}"
    if not corpus:
        return missing(role, "no source given", f"data.{role} is empty", advice)
    instead = "set distortion.rir=false" if corpus == "rir" else f"leave {corpus} out of distortion.additive"
    problem = f"{corpus} is drawn, but data.{role} is not set"
    return missing(role, "no source given", problem, f"{advice}, or {instead}")


def short_name(source: str) -> str:
    """Of a source, for the report's first column."""
    name = source.rstrip("/").rpartition("/")[2]
    return name.removesuffix(".gz").removesuffix(".jsonl")


def source_finding(
    what: str,
    source: str,
    found: Survey,
    tolerated: float,
    how_to_make: HowToMake,
    key: str = "data.max_bad_fraction",
) -> Finding:
    """One manifest, TSV or folder, of which a share of files may be bad: training leaves those out.

    Args:
        what: name for the report.
        source: manifest, TSV or folder.
        found: in it.
        tolerated: share of bad files that training does without.
        how_to_make: as for `check`.
        key: option that says so.
    """
    path = Path(split_query(source)[0])
    if not found.exists:
        return missing(what, "not there", found.error, how_to_make(path))
    if found.error:
        return wrong(what, "cannot be used", _listed(found.error, found.bad), f"mend or replace {path}")
    hours = f"{found.hours:.{1 if found.hours >= 1 else 2}f} h"
    extent = ""
    if found.looked_at < found.utterances:
        extent = f"{found.looked_at} of {found.utterances} files looked at"
    if not found.bad:
        state = "note" if found.unprepared else "ok"
        detail = f"{found.utterances} utterances, {hours}"
        there = "all" if found.there == found.utterances else found.there
        more = f"{extent}, {there} are there" if extent else ""
        return Finding(what=what, state=state, detail=detail, fix=found.unprepared, more=more)
    detail = f"{len(found.bad)} bad of {found.utterances}, {hours}"
    if found.bad_share <= tolerated:
        some = f"training does without them, up to {key}={tolerated:g}: "
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


# ---------------------------------------------------------------------------------------------------- teacher


def _check_teacher(recipe: Recipe, report: CheckReport) -> HubertConfig | None:
    """Whether it can be loaded; its architecture, also if it is a published one that will be downloaded."""
    what = f"teacher: {recipe.teacher}"
    try:
        source, wish = split_source(recipe.teacher)
    except CheckpointError as error:
        report.findings.append(wrong(what, "no such choice", str(error), "correct it"))
        return None
    path = Path(source).expanduser()
    run = not path.exists() and path.parts[:1] == ("runs",)  # "runs/x" reads as a hub id, too
    if run:
        fix = f"distill adapt {path.name}" if path.name in recipe_names() else f"train {source} first"
        report.findings.append(missing(what, "not there", f"{source} does not exist", fix))
        return None
    try:
        if not path.exists() and (bundles.is_bundle(source) or huggingface.is_hub_id(source)):
            folder = _cached(source)
            if folder is None:
                report.findings.append(_not_downloaded(what, source))
                return PRESETS[_PUBLISHED[source]] if source in _PUBLISHED else None
            source = str(folder)
        config = load_teacher(source, normalize_input=wish).config
    except CheckpointError as error:
        state, detail = ("wrong", "cannot be used") if path.exists() else ("missing", "not there")
        fix = "set teacher to a checkpoint that can be used"
        report.findings.append(Finding(what=what, state=state, detail=detail, problem=str(error), fix=fix))
        return None
    detail = f"{config.layers} layers, {config.dim} features"
    report.findings.append(Finding(what=what, state="ok", detail=detail))
    return config


def _cached(source: str) -> Path | None:
    """The folder of a hub model, or the name of a torchaudio bundle, if it is in the cache."""
    if bundles.is_bundle(source):
        import torchaudio

        bundle = getattr(torchaudio.pipelines, source, None)
        file = Path(torch.hub.get_dir()) / "checkpoints" / Path(getattr(bundle, "_path", "") or "none").name
        return Path(source) if bundle is None or file.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json")
    folder = Path(found).parent if isinstance(found, str) else None
    has_weights = folder is not None and any((folder / name).is_file() for name in huggingface.FILES[1:])
    return folder if has_weights else None


def _not_downloaded(what: str, source: str) -> Finding:
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE and not bundles.is_bundle(source):
        problem = f"{source} is not in the hub's cache, and HF_HUB_OFFLINE forbids to download it"
        fix = f"hf download {source} (on a machine that is online), or set teacher to a folder or file"
        return missing(what, "not in the cache, and offline", problem, fix)
    size = f", {_MEGABYTES[_PUBLISHED[source]]} MB" if source in _PUBLISHED else ""
    return Finding(what=what, state="note", detail=f"will be downloaded{size}")


def _check_targets(recipe: AdaptRecipe, config: HubertConfig | None) -> list[Finding]:
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
            findings.append(missing("targets", "not there", problem, fix))
    made = f"in {options.folder}" if options.folder else f"{options.clusters} clusters, made in the run"
    return findings or [Finding(what="targets", state="ok", detail=made)]


# ------------------------------------------------------------------------------------------- options, machine


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


def _check_out(out: Path) -> Finding:
    """The run folder: a new one, or a run that can go on."""
    what = f"run: {out}"
    if (out / "checkpoints" / "last.ckpt").exists():
        return Finding(what=what, state="note", detail="a run is there: --resume it")
    try:
        check_run_folder(out, resume=False)
    except UserError as error:
        return wrong(what, "cannot be used", str(error), "choose another --out")
    return writable_finding(what, out, "new")


def writable_finding(what: str, out: Path, detail: str) -> Finding:
    """Whether a folder can be written, or made; `detail` is said if so."""
    place = _existing(out)
    if not place.is_dir() or not os.access(place, os.W_OK):
        return wrong(what, "cannot be written", f"{place} cannot be written", "choose another --out")
    return Finding(what=what, state="ok", detail=detail)


def _existing(path: Path) -> Path:
    """The nearest folder above, or itself, that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def _check_needs(
    recipe: Recipe, config: HubertConfig | None, out: Path, hours: float, layout: Layout
) -> list[Finding]:
    """Disk, memory and GPU memory, if the models are known."""
    if config is None:
        return [Finding(what="disk, memory", state="note", detail="not known without the teacher")]
    try:
        needs = estimate(recipe, config, layout)
    except ValueError as error:
        return [wrong("student", "does not fit the teacher", str(error), "change the student section")]
    disk = needs.disk + (targets_bytes(recipe, config, hours) if isinstance(recipe, AdaptRecipe) else 0)
    free = shutil.disk_usage(_existing(out)).free
    detail = f"{_gb(disk)} of {_gb(free)} free"
    findings = [Finding(what="disk", state="ok", detail=detail)]
    if disk > free:
        problem = f"{out} needs {_gb(disk)}, {_existing(out)} has {_gb(free)} free"
        findings = [missing("disk", detail, problem, "make room, or choose another --out")]
    findings.append(_memory("memory", needs.host, available_memory(), _LESS_MEMORY))
    if layout.gpu:
        found = torch.cuda.device_count()
        total = torch.cuda.get_device_properties(0).total_memory if found else None
        findings.append(_memory("GPU memory", needs.device, total, _LESS_MEMORY))
        if found < layout.processes:
            detail = f"{layout.processes} wanted, {found} on this machine"
            findings.append(Finding(what="GPUs", state="note", detail=detail))
    if recipe.data.workers:
        findings += _handing_over(needs)
    return [*findings, _workers(recipe, layout)]


def _memory(what: str, needed: int, there: int | None, advice: str) -> Finding:
    """Estimates are rough: too little memory is a note, not a problem."""
    if there is None:
        return Finding(what=what, state="note", detail=f"about {_gb(needed)}, nothing here")
    detail = f"about {_gb(needed)} of {_gb(there)}"
    if needed > there:
        return Finding(what=what, state="note", detail=detail, fix=f"may not be enough; {advice}")
    return Finding(what=what, state="ok", detail=detail)


def _handing_over(needs: Needs) -> list[Finding]:
    """Whether data workers have the room to hand over what they read."""
    findings = []
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        detail = f"up to {_gb(needs.shared)} of {_gb(free)}"
        fix = ""
        if needs.shared > free:
            size = -(-needs.shared // 10**9)
            fix = "batches without room go through pipes, which is slower: give a container more, as with "
            fix += f"docker run --shm-size={size}g, or use fewer data.workers"
        findings.append(Finding(what="shared memory", state="note" if fix else "ok", detail=detail, fix=fix))
    limit = most_open_files()
    if limit is not None and needs.open_files > limit:
        detail = f"about {needs.open_files}, the limit is {limit}"
        fix = "raise it (ulimit -Hn), or use fewer data.workers"
        findings.append(Finding(what="open files", state="note", detail=detail, fix=fix))
    return findings


def _workers(recipe: Recipe, layout: Layout) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = layout.processes * (recipe.data.workers + 1)
    detail = f"{wanted} processes on {cores} cores"
    if wanted <= cores:
        return Finding(what="CPU", state="ok", detail=detail)
    fix = f"data.workers={max(0, cores // layout.processes - 1)} would fit this machine"
    return Finding(what="CPU", state="note", detail=detail, fix=fix)


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
