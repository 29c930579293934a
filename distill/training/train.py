"""From a recipe to a distilled student in a run folder.

A run folder holds the resolved recipe, versions, logs (CSV, TensorBoard, Weights & Biases), checkpoints
(`checkpoints/last.ckpt`, `checkpoints/best.ckpt`) and, in the end, `student.safetensors` + `student.json` (or
`teacher.*`).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytorch_lightning as pl
from torch import Tensor

from distill.checkpoints import load_teacher
from distill.checkpoints.codebooks import clustered_by, clustered_layer, load_codebook
from distill.data.datamodule import SpeechData
from distill.distillation import Distillation
from distill.distortions import Distorter
from distill.errors import ConfigError
from distill.options import CDM, DistillRecipe, UnitsConfig
from distill.processes import is_first_process
from distill.student import PARTS, Student
from distill.training.locking import RunLock
from distill.training.releasing import provenance_of, release
from distill.training.resuming import keep_recipe
from distill.training.run_folder import RunFolder
from distill.training.trainer import finish, fit, make_trainer, say_start

if TYPE_CHECKING:
    from distill.training.sharing import Place

logger = logging.getLogger(__name__)


def train(
    recipe: DistillRecipe,
    out: Path,
    *,
    resume: bool = False,
    other_speech: bool = False,
    place: Place | None = None,
) -> Path:
    """Distil a student.

    Args:
        recipe: all options.
        out: the run folder; made if missing.
        resume: continue from `out/checkpoints/last.ckpt`.
        other_speech: resume although `recipe.data.train` has changed.
        place: among runs that train together (`distill.training.several`).

    Returns:
        Path of the released student, `out/student.safetensors`: the checkpoint with the lowest dev loss.

    Raises:
        UserError: for anything the user can fix: missing data or teacher, impossible options.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    folder = RunFolder(out)
    folder.check(resume=resume)
    streams = streams_of(recipe) if place is None else place.group.streams
    share = None if place is None else place.loader
    data = SpeechData(recipe, streams=streams, other_speech=other_speech, share=share)
    module = make_module(recipe)
    data.model = module.teacher.config
    with RunLock(out) as lock:
        folder.check(resume=resume)  # another process may have been faster
        trainer = make_trainer(recipe, folder)
        if place is not None:
            place.join(trainer, module, out.name)
        keep_recipe(trainer, recipe, folder, resume=resume)
        say_start(trainer, recipe, models_of(module), out)
        seconds = fit(trainer, module, data, folder, resume=resume, lock=lock)
        made = release(trainer, module.student, "student.", folder, module.provenance)
        finish(trainer, folder, seconds)
    return made


def streams_of(recipe: DistillRecipe) -> list[str]:
    """The distorted views that the batches of a recipe need."""
    return sorted({stream for stream in CDM[recipe.cdm] if stream})


def make_module(recipe: DistillRecipe) -> Distillation:
    """Teacher, student and distorter of a recipe.

    Raises:
        ConfigError: the teacher does not have the layers that the student needs.
    """
    teacher = load_teacher(recipe.teacher)
    for useless in recipe.without_effect() if is_first_process() else []:
        logger.warning(useless)
    units = recipe.objective.units
    codebook = _codebook(units)
    if codebook is not None and not clustered_by(teacher, units.codebook or "") and is_first_process():
        logger.warning(
            "objective.units.codebook: %s has clusters of another model than the teacher: `distill adapt "
            "targets` makes its own",
            units.codebook,
        )
    try:
        student = Student.from_teacher(teacher, **vars(recipe.student))
        random = {"random_parts": list(student.random_parts)} if student.random_parts else {}
        return Distillation(
            teacher,
            student,
            Distorter.from_config(recipe.distortion, split="train"),
            cdm=recipe.cdm,
            cosine_weight=recipe.cosine_weight,
            dat=recipe.dat,
            objective=recipe.objective,
            codebook=codebook,
            seed=recipe.seed,
            optim=recipe.optim,
            provenance=provenance_of(recipe) | random,
        )
    except ValueError as error:
        raise ConfigError(f"recipe {recipe.name}: {error}") from None


def _codebook(options: UnitsConfig) -> Tensor | None:
    """The teacher's units, if they are predicted.

    Raises:
        UserError: they cannot be read, or are of another layer.
    """
    if not options.weight or options.codebook is None:
        return None
    codebook, layer = load_codebook(options.codebook), clustered_layer(options.codebook)
    if layer is not None and layer != options.layer:
        raise ConfigError(
            f"objective.units.codebook: {options.codebook} is of layer {layer}, not {options.layer}: "
            f"set objective.units.layer={layer}"
        )
    return codebook


def models_of(module: Distillation) -> str:
    """Student and teacher, and their sizes."""
    encoder = sum(p.numel() for p in module.student.encoder.parameters()) / 1e6
    teacher = sum(p.numel() for p in module.teacher.parameters()) / 1e6
    name = module.student.encoder.config.model_name
    sizes = f"{name} student {encoder:.1f} M, teacher {teacher:.1f} M parameters"
    random = [PARTS.get(part, part) for part in module.student.random_parts]
    return f"{sizes}; the student's {', '.join(random)} start at random" if random else sizes
