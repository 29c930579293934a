"""Folder, disk, memory, GPUs and cores of the machine that the check runs on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from distill.data.parcels import SHARED_MEMORY, most_open_files
from distill.encoder import EncoderConfig
from distill.errors import UserError
from distill.options import AdaptRecipe, Recipe, SpiralRecipe
from distill.preflight.findings import Finding, missing, wrong
from distill.preflight.needs import Needs, available_memory, estimate, targets_bytes
from distill.training.devices import Layout
from distill.training.run_folder import RunFolder

_LESS_MEMORY = "optim.accumulate=2 halves what a step needs, fewer data.workers need less"
# Batch norm and loss of a SPIRAL need the whole batch at once.
_LESS_MEMORY_SPIRAL = (
    "more processes or a smaller data.max_samples make a step smaller, as fewer data.workers"
)


def check_out(out: Path) -> Finding:
    """The run folder: a new one, or a run that can be resumed."""
    what = f"run: {out}"
    if RunFolder(out).last.exists():
        return Finding(what=what, state="note", detail="holds a run: --resume it")
    try:
        RunFolder(out).check(resume=False)
    except UserError as error:
        return wrong(what, "cannot be used", str(error), "choose another --out")
    return writable_finding(what, out, "new")


def writable_finding(what: str, out: Path, detail: str) -> Finding:
    """Whether a folder can be written, or made; if so, the finding has this `detail`."""
    folder = _nearest_existing(out)
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return wrong(what, "cannot be written", f"{folder} cannot be written", "choose another --out")
    return Finding(what=what, state="ok", detail=detail)


def _nearest_existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def check_needs(
    recipe: Recipe, config: EncoderConfig | None, out: Path, hours: float, layout: Layout
) -> list[Finding]:
    """Disk, memory, GPUs, shared memory and cores, if the teacher is known."""
    if config is None:
        return [Finding(what="disk, memory", state="note", detail="not known without the teacher")]
    try:
        needs = estimate(recipe, config, layout)
    except ValueError as error:
        return [wrong("student", "does not fit the teacher", str(error), "change student or objective")]
    disk = needs.disk + (targets_bytes(recipe, config, hours) if isinstance(recipe, AdaptRecipe) else 0)
    free = shutil.disk_usage(_nearest_existing(out)).free
    detail = f"{_gb(disk)} of {_gb(free)} free"
    findings = [Finding(what="disk", state="ok", detail=detail)]
    if disk > free:
        problem = f"{out} needs {_gb(disk)}, {_nearest_existing(out)} has {_gb(free)} free"
        findings = [missing("disk", detail, problem, "make room, or choose another --out")]
    advice = _LESS_MEMORY_SPIRAL if isinstance(recipe, SpiralRecipe) else _LESS_MEMORY
    findings.append(_memory("memory", needs.host, available_memory(), advice))
    if layout.gpu:
        found = torch.cuda.device_count()
        total = torch.cuda.get_device_properties(0).total_memory if found else None
        findings.append(_memory("GPU memory", needs.device, total, advice))
        if found < layout.processes:
            detail = f"{layout.processes} wanted, {found} on this machine"
            findings.append(Finding(what="GPUs", state="note", detail=detail))
    if recipe.data.workers:
        findings += _handing_over(needs)
    return [*findings, _workers(recipe, layout)]


def _memory(what: str, needed: int, available: int | None, advice: str) -> Finding:
    """Estimates are rough: too little memory is a note, not a problem."""
    if available is None:
        return Finding(what=what, state="note", detail=f"about {_gb(needed)}, nothing here")
    detail = f"about {_gb(needed)} of {_gb(available)}"
    if needed > available:
        return Finding(what=what, state="note", detail=detail, fix=f"may not be enough; {advice}")
    return Finding(what=what, state="ok", detail=detail)


def _handing_over(needs: Needs) -> list[Finding]:
    """Whether there are shared memory and open files enough for data workers to hand over their batches."""
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
