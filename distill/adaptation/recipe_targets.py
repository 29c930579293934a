"""The targets of a run of `distill adapt`: its own, kept when it is resumed, or those the recipe names."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.adaptation.clustering import Clustering
from distill.adaptation.target_making import make_targets, wait_for_targets
from distill.adaptation.targets import Targets
from distill.adaptation.utterances import describe_audio, list_utterances
from distill.atomic import read_json
from distill.checkpoints.codebooks import load_codebook
from distill.data.datamodule import SpeechData
from distill.data.manifest import Cuts
from distill.errors import ConfigError, DataError
from distill.hubert import HubertEncoder
from distill.options import AdaptRecipe, TargetsConfig
from distill.processes import is_first_process
from distill.training.devices import devices_of
from distill.training.locking import Watch

logger = logging.getLogger(__name__)

_MOST_CHECKED = 2_000  # utterances that are asked for their labels before training: enough to tell a share


def targets_of(
    data: SpeechData, folder: Path, recipe: AdaptRecipe, encoder: HubertEncoder, *, resume: bool
) -> tuple[Targets, Targets]:
    """The targets of training and dev set, of one codebook.

    Args:
        data: the speech.
        folder: `train` and `dev` in it are those of the run.
        recipe: its targets section and seed; features of a layer are computed on the devices of its trainer
            section, and without GPUs in as many processes as it has data workers.
        encoder: the teacher.
        resume: the targets of a resumed run are never made again: its head belongs to them.

    Raises:
        ConfigError: the targets that exist are not what the recipe says, or at another frame rate than
            the teacher's.
        DataError: they are incomplete, or of other speech.
    """
    options = recipe.targets
    if options.folder or resume:
        folder = Path(options.folder) if options.folder else folder
        train, dev = (_load(folder / name, options, resume=resume) for name in ("train", "dev"))
        if not torch.equal(train.codebook, dev.codebook):
            raise ConfigError(
                f"{folder}/train and {folder}/dev are of different codebooks: make both in one call of "
                "`distill adapt targets RECIPE`, or dev with --codebook TRAIN"
            )
    else:
        train, dev = _made(data, folder, recipe, encoder)
    if train.hop != encoder.config.hop or dev.hop != encoder.config.hop:
        raise ConfigError(
            f"{folder} has a label every {train.hop} (train) and {dev.hop} samples (dev), the frames of "
            f"{recipe.teacher} are {encoder.config.hop} apart: make targets of this teacher with "
            "`distill adapt targets RECIPE --teacher TEACHER`, or leave targets.folder out"
        )
    for key, cuts, found in (("train", data.train_cuts, train), ("dev", data.dev_cuts, dev)):
        _check_labels(cuts, found, f"data.{key}", folder / key, recipe.data.max_bad_fraction)
        if (options.folder or resume) and is_first_process():
            _warn_of_other_audio(cuts, f"data.{key}", folder / key)
    return train, dev


def _made(
    data: SpeechData, folder: Path, recipe: AdaptRecipe, encoder: HubertEncoder
) -> tuple[Targets, Targets]:
    """Made by the first process in the run folder, unless they exist; the others wait, and watch it."""
    options = recipe.targets
    of_layer = options.features == "layer"
    devices = devices_of(recipe)
    on_gpu = of_layer and devices[0].type == "cuda"
    jobs = len(devices) if on_gpu else max(1, recipe.data.workers)
    first = Watch(folder.parent)

    def make(cuts: Cuts, name: str, codebook: Tensor | None) -> Targets:
        clustering = Clustering(
            n_clusters=options.clusters if codebook is None else len(codebook),
            seed=recipe.seed,
            encoder=encoder if of_layer else None,
            layer=options.layer if of_layer else None,
            model=encoder.config,
            codebook=codebook,
            sample_hours=options.sample_hours,
        )
        if not is_first_process():
            return wait_for_targets(cuts, folder / name, clustering, first.check)
        return make_targets(
            cuts,
            folder / name,
            clustering,
            jobs=jobs,
            devices=devices,
            max_bad_fraction=recipe.data.max_bad_fraction,
            start_afresh=True,
        )

    try:
        codebook = load_codebook(options.codebook) if options.codebook else None
        train = make(data.train_cuts, "train", codebook)
        return train, make(data.dev_cuts, "dev", train.codebook)
    except ValueError as error:
        raise ConfigError(f"recipe {recipe.name}: targets: {error}") from None


def _load(folder: Path, options: TargetsConfig, *, resume: bool) -> Targets:
    """Targets that were made before, which must be what the recipe says they are."""
    found = Targets.load(folder)
    name = f"layer {options.layer}" if options.features == "layer" else "mfcc"
    codebook = load_codebook(options.codebook) if options.codebook else None
    clusters = options.clusters if codebook is None else len(codebook)
    advice = (
        "a resumed run keeps its targets; for others start a new one from its teacher (teacher=RUN)"
        if resume
        else "set targets.features, targets.layer, targets.clusters and targets.codebook accordingly, or "
        "leave targets.folder out"
    )
    if (found.features, found.n_clusters) != (name, clusters):
        raise ConfigError(
            f"{folder} holds {found.n_clusters} clusters of {found.features}, the recipe wants "
            f"{clusters} of {name}: {advice}"
        )
    if codebook is not None and not torch.equal(found.codebook, codebook):
        raise ConfigError(f"{folder} was made with another codebook than {options.codebook}: {advice}")
    return found


def _warn_of_other_audio(cuts: Cuts, key: str, folder: Path) -> None:
    """Warn of labels of other samples under the same names and lengths: a distorted copy may be meant."""
    about = read_json(folder / "targets.json")
    if "audio" not in about or about.get("speech") != list_utterances(cuts).digest():
        return
    if about["audio"] != describe_audio(cuts, len(cuts), about["audio"]["without"]):
        logger.warning(
            "%s holds labels of other audio than %s has under the same names: right if that is a distorted "
            "copy which is to learn the clusters of the original, else make the targets again",
            *(folder, key),
        )


def _check_labels(cuts: Cuts, targets: Targets, key: str, folder: Path, limit: float) -> None:
    """Stop before training if too many utterances have no labels, judged by some from all over the corpus."""
    numbers = np.linspace(0, len(cuts) - 1, min(_MOST_CHECKED, len(cuts))).round().astype(int)
    missing = [name for name in (cuts[number].id for number in numbers) if name not in targets.labels]
    if len(missing) > limit * len(numbers):
        raise DataError(
            f"{len(missing)} of {len(numbers)} utterances of {key} have no labels in {folder}, such as "
            f"{missing[0]}: make the targets of this speech (distill adapt targets RECIPE --out FOLDER, then "
            "targets.folder=FOLDER), or name the speech that they are of"
        )
