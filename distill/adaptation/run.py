"""From an `AdaptRecipe` to a teacher in a run folder: targets, then masked prediction."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from lhotse import CutSet
from torch import Tensor

from distill.adaptation.masked_prediction import MaskedPrediction
from distill.adaptation.targets import Targets, make_targets
from distill.checkpoints import load_teacher
from distill.data import MIN_SAMPLES, read_audio, samples_at_16k
from distill.datamodule import SpeechData
from distill.distortions import Distorter
from distill.errors import ConfigError
from distill.hubert import HubertEncoder
from distill.options import AdaptRecipe, TargetsConfig
from distill.processes import is_follower
from distill.runs import check_run_folder, fit, make_trainer, release, start_run_folder, versions

logger = logging.getLogger(__name__)


def adapt(recipe: AdaptRecipe, out: Path, *, resume: bool = False) -> Path:
    """Pre-train a teacher, or adapt one to distorted speech.

    Args:
        recipe: everything that matters.
        out: the run folder; k-means targets go to `out/targets`.
        resume: go on from `out/checkpoints/last.ckpt`.

    Returns:
        Path of the teacher, `out/teacher.safetensors`: the checkpoint with the lowest dev loss.

    Raises:
        UserError: for anything the user can mend.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    check_run_folder(out, resume=resume)
    data = SpeechData(recipe, streams=["student"] if recipe.distort else [])
    encoder = load_teacher(recipe.teacher)
    trainer = make_trainer(recipe, out, accumulate=recipe.optim.accumulate)
    start_run_folder(recipe, out)
    try:
        train = targets_for(data.train_cuts, out / "targets" / "train", recipe, encoder)
        dev = targets_for(data.dev_cuts, out / "targets" / "dev", recipe, encoder, codebook=train.codebook)
    except ValueError as error:
        raise ConfigError(f"recipe {recipe.name}: targets: {error}") from None
    data.targets = train.labels | dev.labels
    majority = majority_share(dev)
    module = MaskedPrediction(
        encoder.train(),
        recipe.targets.clusters,
        optim=recipe.optim,
        mask_probability=recipe.masking.probability,
        mask_length=recipe.masking.length,
        unmasked_weight=recipe.masking.unmasked_weight,
        feature_penalty=recipe.masking.feature_penalty,
        distorter=Distorter.from_config(recipe.distortion, split="train") if recipe.distort else None,
        seed=recipe.seed,
        provenance={
            "recipe": recipe.name,
            "teacher": recipe.teacher,
            "versions": versions(),
            "dev_majority_share": round(majority, 4),
        },
    )
    if trainer.is_global_zero:
        size = sum(p.numel() for p in encoder.parameters()) / 1e6
        print(
            f"{recipe.name}: HuBERT of {size:.1f} M parameters from {recipe.teacher}; "
            f"{recipe.optim.max_steps} steps of {recipe.data.batch_size} utterances on "
            f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}; into {out}\n"
            f"{recipe.name}: guessing the most frequent cluster is right on {majority:.1%} of dev frames",
            file=sys.stderr,
        )
    fit(trainer, module, data, out, resume=resume)
    return release(trainer, module.encoder, "encoder.", out, module.provenance)


class Utterances:
    """(id, waveform) of every usable utterance, as often as it is iterated over."""

    def __init__(self, cuts: CutSet):
        self.cuts = cuts

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for cut in iter(self.cuts):  # pyright: ignore[reportGeneralTypeIssues]
            if samples_at_16k(cut) < MIN_SAMPLES:
                logger.warning("skipped %s: shorter than one frame", cut.id)
                continue
            yield cut.id, read_audio(cut)


def targets_for(
    cuts: CutSet,
    folder: Path,
    recipe: AdaptRecipe,
    encoder: HubertEncoder,
    *,
    codebook: Tensor | None = None,
) -> Targets:
    """The targets of a set: those in `folder` if it has them, otherwise made and kept there."""
    options: TargetsConfig = recipe.targets
    name = f"layer {options.layer}" if options.features == "layer" else "mfcc"
    while is_follower() and not (folder / "targets.json").exists():
        time.sleep(1.0)  # the first process makes them
    if (folder / "targets.json").exists():
        found = Targets.load(folder)
        if (found.features, found.n_clusters) == (name, options.clusters):
            return found
    of_layer = options.features == "layer"
    threads = torch.get_num_threads()
    if not of_layer:
        torch.set_num_threads(1)  # MFCC of one utterance are too little work to share: sharing costs more
    try:
        targets = make_targets(
            Utterances(cuts),
            n_clusters=options.clusters,
            seed=recipe.seed,
            encoder=encoder if of_layer else None,
            layer=options.layer if of_layer else None,
            codebook=codebook,
        )
    finally:
        torch.set_num_threads(threads)
    targets.save(folder)
    return targets


def majority_share(targets: Targets) -> float:
    """Share of the frames that carry the most frequent label: what guessing it would get right."""
    counts = np.bincount(np.concatenate(list(targets.labels.values())), minlength=targets.n_clusters)
    return float(counts.max() / counts.sum())
