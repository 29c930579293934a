"""Run a recipe of any kind: distil a student, adapt a teacher, or release one as it is."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from distill.checkpoints import load_teacher, native
from distill.errors import ConfigError, UsageError
from distill.options import AdaptRecipe, DistillRecipe, FinetuneRecipe, Recipe, SpiralRecipe
from distill.processes import is_first_process
from distill.training.locking import RunLock
from distill.training.releasing import check_made, provenance_of
from distill.training.run_folder import RunFolder
from distill.training.train import make_module, streams_of, train


def run(recipe: Recipe, out: Path, *, resume: bool = False, other_speech: bool = False) -> Path:
    """Run a recipe of any kind; returns the path of the model it makes (see `train` and `adapt`).

    Resuming a finished run touches nothing.
    """
    if isinstance(recipe, FinetuneRecipe):  # of a neighbour, which nothing here imports
        raise ConfigError(f"{recipe.name} is a recipe for distill finetune, not for distill train")
    folder = RunFolder(out)
    made = folder.student if isinstance(recipe, DistillRecipe) else folder.teacher
    if resume and made.exists() and folder.steps_done >= recipe.optim.max_steps:
        check_made(made)
        if is_first_process():
            print(f"{out} is finished already", file=sys.stderr)
        return made
    if isinstance(recipe, DistillRecipe):
        return train(recipe, out, resume=resume, other_speech=other_speech)
    if isinstance(recipe, AdaptRecipe):
        from distill.adaptation.run import adapt

        return adapt(recipe, out, resume=resume, other_speech=other_speech)
    if isinstance(recipe, SpiralRecipe):
        from distill.pretraining.run import pretrain

        return pretrain(recipe, out, resume=resume, other_speech=other_speech)
    folder.check(resume=False)
    torch.manual_seed(recipe.seed)  # of random weights, such as the control of an experiment
    teacher = load_teacher(recipe.teacher)
    with RunLock(out):
        folder.check(resume=False)
        folder.start(recipe)
        return native.write(teacher, out, provenance_of(recipe))


def replay(recipe: Recipe, path: Path) -> str:
    """Make a step again whose gradient was not finite; returns what is not finite in it, in lines.

    Args:
        recipe: of the run.
        path: `RUN/nonfinite/step-N.ckpt`.

    Raises:
        UserError: for anything the user can fix.
    """
    from distill.training import replaying

    torch.manual_seed(recipe.seed)
    if isinstance(recipe, DistillRecipe):
        module = make_module(recipe)
        return replaying.replay(path, recipe, module, module.teacher.config, streams_of(recipe))
    if isinstance(recipe, SpiralRecipe):
        from distill.pretraining.run import make_pretraining

        module = make_pretraining(recipe)
        streams = ["student"] if recipe.distort else []
        return replaying.replay(path, recipe, module, module.encoder.config, streams)
    raise UsageError(f"--replay makes steps of distillations and of SPIRAL again, not of kind {recipe.kind}")
