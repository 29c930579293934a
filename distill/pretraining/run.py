"""From a `SpiralRecipe` to a teacher in a run folder."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from distill.checkpoints import load_teacher
from distill.data.datamodule import SpeechData
from distill.distortions import Distorter
from distill.errors import ConfigError
from distill.options import SpiralRecipe
from distill.pretraining.spiral import SpiralPretraining
from distill.spiral.encoder import SpiralEncoder
from distill.training.locking import RunLock
from distill.training.releasing import provenance_of, release
from distill.training.resuming import keep_recipe
from distill.training.run_folder import RunFolder
from distill.training.trainer import finish, fit, make_trainer, say_start


def pretrain(recipe: SpiralRecipe, out: Path, *, resume: bool = False, other_speech: bool = False) -> Path:
    """Pre-train a SPIRAL, from nothing or from a checkpoint.

    Args:
        recipe: all options.
        out: the run folder; made if missing.
        resume: continue from `out/checkpoints/last.ckpt`.
        other_speech: resume although `recipe.data.train` has changed.

    Returns:
        Path of the teacher, `out/teacher.safetensors`: the student's encoder after the last step.

    Raises:
        UserError: for anything the user can fix.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    folder = RunFolder(out)
    folder.check(resume=resume)
    data = SpeechData(recipe, streams=["student"] if recipe.distort else [], other_speech=other_speech)
    module = make_pretraining(recipe)
    data.model = module.encoder.config
    with RunLock(out) as lock:
        folder.check(resume=resume)  # another process may have been faster
        trainer = make_trainer(recipe, folder)
        keep_recipe(trainer, recipe, folder, resume=resume)
        size = sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6
        models = f"SPIRAL of {size:.1f} M parameters with heads, from {recipe.teacher}"
        say_start(trainer, recipe, models, out)
        seconds = fit(trainer, module, data, folder, resume=resume, lock=lock)
        facts = {"collapsed": module.collapse} if module.collapse else {}
        made = release(trainer, module.encoder, "encoder.", folder, module.provenance | facts, which="last")
        finish(trainer, folder, seconds)
    return made


def make_pretraining(recipe: SpiralRecipe) -> SpiralPretraining:
    """Student, teacher and heads of a recipe.

    Raises:
        ConfigError: the recipe starts from something else than a SPIRAL.
    """
    encoder = load_teacher(recipe.teacher)
    if not isinstance(encoder, SpiralEncoder):
        raise ConfigError(
            f"recipe {recipe.name}: {recipe.teacher} is a HuBERT, and kind spiral pre-trains a SPIRAL: set "
            "teacher to random:spiral_base, random:spiral_large, random:spiral_mini or a SPIRAL checkpoint "
            "(a HuBERT is adapted with kind adapt)"
        )
    stated = recipe.encoder.stated()
    stated.pop("projection_dropout", None)  # 0: SPIRAL has none
    return SpiralPretraining(
        encoder.regularised(**stated).train(),
        optim=recipe.optim,
        masking=recipe.masking,
        most_shift=recipe.shift,
        contrast=recipe.contrast,
        heads=recipe.heads,
        average=recipe.ema,
        distorter=Distorter.from_config(recipe.distortion, split="train") if recipe.distort else None,
        seed=recipe.seed,
        provenance=provenance_of(recipe),
    )
