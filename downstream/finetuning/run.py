"""From a `FinetuneRecipe` to a fine-tuned model in a run folder."""

from __future__ import annotations

import logging
import sys
from dataclasses import asdict
from pathlib import Path

import pytorch_lightning as pl

from distill.checkpoints.loading import load_any
from distill.distortions import Distorter
from distill.downstream.finetuning.classifier import Classifier
from distill.downstream.finetuning.data import TranscribedSpeech
from distill.downstream.finetuning.model import NAME, FineTuned, load_finetuned, make_shape, write
from distill.downstream.finetuning.module import CHOICE, FineTuning
from distill.downstream.finetuning.testing import WerTests, evaluate_wer
from distill.downstream.finetuning.units import Characters, Units, learn_subwords, read_units
from distill.encoder import Encoder
from distill.errors import ConfigError
from distill.options import FinetuneRecipe
from distill.processes import is_first_process
from distill.student import Student
from distill.training.locking import RunLock
from distill.training.releasing import provenance_of
from distill.training.resuming import keep_recipe
from distill.training.run_folder import RunFolder
from distill.training.saving import read_checkpoint
from distill.training.trainer import describe_device, finish, fit, make_trainer

logger = logging.getLogger(__name__)


def finetune(recipe: FinetuneRecipe, out: Path, *, resume: bool = False, other_speech: bool = False) -> Path:
    """Fine-tune an encoder and test it.

    Args:
        recipe: all options.
        out: the run folder; made if missing.
        resume: continue from `out/checkpoints/last.ckpt`; of a finished run, its tests.
        other_speech: resume although `recipe.data.train` has changed.

    Returns:
        Path of the model, `out/finetuned.safetensors`: the checkpoint with the fewest word errors on dev.

    Raises:
        UserError: for anything the user can fix.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    folder = RunFolder(out)
    made = folder.path / NAME
    if resume and made.exists() and folder.steps_done >= recipe.optim.max_steps:
        if is_first_process():
            print(f"{out} is finished already", file=sys.stderr)
    else:
        folder.check(resume=resume)
        data = TranscribedSpeech(recipe, other_speech=other_speech)
        units = make_units(recipe, data, folder.path if resume else None)
        module = make_module(recipe, data, open_encoder(recipe), units)
        if recipe.tests and is_first_process():
            WerTests(module.model, units, recipe, out)  # what is missing is said before the training
        with RunLock(out) as lock:
            folder.check(resume=resume)  # another process may have been faster
            _train(module, data, folder, lock, resume=resume)
    if recipe.tests and is_first_process():
        _test(recipe, made)
    return made


def _train(
    module: FineTuning, data: TranscribedSpeech, folder: RunFolder, lock: RunLock, *, resume: bool
) -> None:
    """`finetune` without the tests, in a run folder of which this is the only process."""
    recipe, units = module.recipe, module.units
    trainer = make_trainer(recipe, folder, monitor=CHOICE)
    keep_recipe(trainer, recipe, folder, resume=resume)
    if trainer.is_global_zero and not resume:
        units.save(folder.path)
    say_start(trainer, module, folder)
    seconds = fit(trainer, module, data, folder, resume=resume, lock=lock)
    if trainer.is_global_zero:
        step = take_best(trainer, module.model, folder)
        write(module.model, units, folder.path, module.provenance | {"step": step})
    trainer.strategy.barrier()
    finish(trainer, folder, seconds)


def open_encoder(recipe: FinetuneRecipe) -> Encoder:
    """The encoder to start from, of a teacher or a student, regularised as the recipe says.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: it has no such regularisation.
    """
    model = load_any(recipe.teacher)[0]
    encoder = model.encoder if isinstance(model, Student) else model
    stated = recipe.encoder.stated()
    if unknown := [name for name in stated if not hasattr(encoder.config, name)]:
        raise ConfigError(f"encoder.{unknown[0]}: {recipe.teacher} ({encoder.config.family}) has none")
    return encoder.regularised(**stated).train()


def make_units(recipe: FinetuneRecipe, data: TranscribedSpeech, folder: Path | None) -> Units:
    """The units of a run: new ones, or those in the folder of a run that is resumed.

    Every process learns the same subwords from the same transcripts.

    Raises:
        ConfigError: the transcripts do not allow that vocabulary, or those of the run are others.
    """
    if folder is not None:
        units = read_units(recipe.units, folder)
        if recipe.units == "subwords" and units.outputs != recipe.vocabulary:
            raise ConfigError(f"{folder} has {units.outputs} subwords, vocabulary is {recipe.vocabulary}")
        return units
    if recipe.units == "characters":
        return Characters()
    return learn_subwords(data.texts["train"].values(), recipe.vocabulary)


def make_module(
    recipe: FinetuneRecipe, data: TranscribedSpeech, encoder: Encoder, units: Units
) -> FineTuning:
    """Encoder, classifier, transcripts and distorter of a recipe.

    Raises:
        ConfigError: the encoder's frames cannot be upsampled as asked for.
        DataError: no transcript can be learned.
    """
    try:
        model = FineTuned(encoder, Classifier(make_shape(recipe.classifier, encoder, units)))
    except ValueError as error:
        raise ConfigError(f"classifier: {error}") from None
    data.model = encoder.config
    data.number(units, model.frames)
    return FineTuning(
        model,
        units,
        recipe,
        targets=data.targets_of,
        references=data.texts["dev"],
        distorter=Distorter.from_config(recipe.distortion, split="train") if recipe.distort else None,
        provenance=provenance_of(recipe)
        | {
            "method": "fine-tuning with CTC",
            "frozen": recipe.frozen,
            "distorted": recipe.distort,
            "optim": asdict(recipe.optim),
        },
    )


def take_best(trainer: pl.Trainer, model: FineTuned, folder: RunFolder) -> int:
    """Give a model the weights of the best checkpoint, if there is one; returns the step that it is of.

    Args:
        trainer: after training.
        model: as it is after the last step.
        folder: of the run.
    """
    if not folder.best.exists():
        logger.warning("%s is missing: the last step, %d, is released", folder.best, trainer.global_step)
        return trainer.global_step
    checkpoint = read_checkpoint(folder.best)
    state = checkpoint["state_dict"].items()
    model.load_state_dict({k.removeprefix("model."): v for k, v in state if k.startswith("model.")})
    return checkpoint["global_step"]


def say_start(trainer: pl.Trainer, module: FineTuning, folder: RunFolder) -> None:
    """Print one line about model, units, steps, device and folder, and one about a frozen encoder."""
    if not trainer.is_global_zero:
        return
    recipe, model = module.recipe, module.model
    encoder, classifier = (
        sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.encoder, model.classifier)
    )
    print(
        f"{recipe.name}: {model.encoder.config.family} encoder of {encoder:.1f} M parameters from "
        f"{recipe.teacher}, classifier of {classifier:.1f} M for {module.units.outputs} {recipe.units}; "
        f"{recipe.optim.max_steps} steps of {recipe.data.batch_size} utterances on "
        f"{describe_device(trainer)}; into {folder}",
        file=sys.stderr,
    )
    if recipe.frozen:
        print(
            f"{recipe.name}: the encoder is frozen: it is in eval mode, without dropout and masks",
            file=sys.stderr,
        )


def _test(recipe: FinetuneRecipe, made: Path) -> None:
    """Count word errors on the recipe's test sets."""
    loaded = load_finetuned(made)
    evaluate_wer(loaded.model, loaded.units, recipe, made.parent)
