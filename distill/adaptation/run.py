"""From an `AdaptRecipe` to a teacher in a run folder: targets, then masked prediction."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from distill.adaptation.heads import FILE as HEAD_FILE
from distill.adaptation.heads import head_of, read_head, reuse_head
from distill.adaptation.masked_prediction import MaskedPrediction
from distill.adaptation.recipe_targets import targets_of
from distill.adaptation.targets import Targets
from distill.batch import Batch
from distill.checkpoints import load_hubert
from distill.checkpoints.files import write_safetensors
from distill.data.audio import read_audio, samples_at_16k
from distill.data.datamodule import SpeechData
from distill.data.manifest import Cuts
from distill.distortions import Distorter
from distill.hubert import HubertConfig, HubertEncoder
from distill.options import AdaptRecipe
from distill.training.locking import RunLock
from distill.training.releasing import provenance_of, release
from distill.training.resuming import keep_recipe
from distill.training.run_folder import RunFolder
from distill.training.saving import read_checkpoint
from distill.training.trainer import finish, fit, make_trainer, say_start
from distill.waveforms import pad

# What a head is tried on: enough to tell (some thousand masked frames), and a minute of a CPU at most.
HEAD_BATCHES, HEAD_BATCH, HEAD_SAMPLES = 16, 8, 160_000


def adapt(recipe: AdaptRecipe, out: Path, *, resume: bool = False, other_speech: bool = False) -> Path:
    """Pre-train a teacher, or adapt one to distorted speech.

    Args:
        recipe: everything that matters.
        out: the run folder; k-means targets go to `out/targets`.
        resume: continue from `out/checkpoints/last.ckpt`.
        other_speech: also if `recipe.data.train` is not what it was then.

    Returns:
        Path of the teacher, `out/teacher.safetensors`: the checkpoint with the lowest dev loss.

    Raises:
        UserError: for anything the user can fix.
    """
    pl.seed_everything(recipe.seed, verbose=False)
    folder = RunFolder(out)
    folder.check(resume=resume)
    streams = ["student"] if recipe.distort else []
    data = SpeechData(recipe, streams=streams, other_speech=other_speech)
    encoder = load_hubert(recipe.teacher).regularised(**recipe.encoder.stated())
    with RunLock(out) as lock:
        folder.check(resume=resume)  # another process may have been faster
        return _adapt(recipe, folder, data, encoder, lock, resume=resume)


def _adapt(
    recipe: AdaptRecipe,
    folder: RunFolder,
    data: SpeechData,
    encoder: HubertEncoder,
    lock: RunLock,
    *,
    resume: bool,
) -> Path:
    """`adapt`, in a run folder of which this is the only process."""
    trainer = make_trainer(recipe, folder)
    keep_recipe(trainer, recipe, folder, resume=resume)
    train, dev = targets_of(data, folder.path / "targets", recipe, encoder, resume=resume)
    data.targets = {"train": train.labels, "dev": dev.labels}  # the same name may be in both
    data.model = encoder.config
    majority = majority_share(dev)
    head = read_head(recipe.teacher)
    module = MaskedPrediction(
        encoder.train(),
        train.n_clusters,
        final_dim=256 if head is None else len(head["final_proj.weight"]),
        optim=recipe.optim,
        masking=recipe.masking,
        distorter=Distorter.from_config(recipe.distortion, split="train") if recipe.distort else None,
        seed=recipe.seed,
        provenance=provenance_of(recipe) | {"dev_majority_share": round(majority, 4)},
    )
    size = sum(p.numel() for p in encoder.parameters()) / 1e6
    say_start(trainer, recipe, f"HuBERT of {size:.1f} M parameters from {recipe.teacher}", folder.path)
    if trainer.is_global_zero:
        print(f"  {majority:.1%} of dev frames are of the most frequent cluster", file=sys.stderr)
    if not resume:
        _take_head(module, head, head_batches(data.dev_cuts, dev, encoder.config), recipe, trainer)
    seconds = fit(trainer, module, data, folder, resume=resume, lock=lock)
    made = release(trainer, module.encoder, "encoder.", folder, module.provenance)
    if trainer.is_global_zero:
        _keep_head(module, folder)
    finish(trainer, folder, seconds)
    return made


def _take_head(
    module: MaskedPrediction,
    head: dict[str, Tensor] | None,
    batches: Iterator[Batch],
    recipe: AdaptRecipe,
    trainer: pl.Trainer,
) -> None:
    """Use the teacher's head if there is one that fits the targets, and say what was decided."""
    if head is None:
        taken, why = False, f"prediction head started afresh: {recipe.teacher} has none"
    else:
        taken, why = reuse_head(module, head, batches, recipe.teacher)
    module.provenance["head"] = "the teacher's" if taken else "new"
    if trainer.is_global_zero and not recipe.teacher.startswith("random:"):
        print(f"{recipe.name}: {why}", file=sys.stderr)


def _keep_head(module: MaskedPrediction, folder: RunFolder) -> None:
    """The head that belongs to the released teacher, for going on from it with the same codebook."""
    state = read_checkpoint(folder.best)["state_dict"] if folder.best.exists() else module.state_dict()
    write_safetensors(folder.path / HEAD_FILE, head_of(state))


def head_batches(cuts: Cuts, targets: Targets, model: HubertConfig) -> Iterator[Batch]:
    """A few clean utterances from all over the dev set, with targets for each frame, to try a head on."""
    wanted = np.linspace(0, len(cuts) - 1, min(HEAD_BATCHES * HEAD_BATCH, len(cuts))).round().astype(int)
    labelled = (cut for cut in (cuts[number] for number in wanted) if cut.id in targets.labels)
    for _ in range(HEAD_BATCHES):
        group = list(itertools.islice(labelled, HEAD_BATCH))
        if not group:
            return
        waveforms, lengths = pad(
            [read_audio(cut, 0, min(samples_at_16k(cut), HEAD_SAMPLES)) for cut in group]
        )
        labels = torch.full((len(group), model.frames(waveforms.shape[1])), -1)
        for row, cut in zip(labels, group, strict=True):
            found = torch.from_numpy(targets.labels[cut.id].astype(np.int64))[: len(row)]
            row[: len(found)] = found
        yield Batch([cut.id for cut in group], waveforms, lengths, targets=labels)


def majority_share(targets: Targets) -> float:
    """Share of the frames that carry the most frequent label: what guessing it would get right."""
    counts = targets.counts()
    return float(counts.max() / counts.sum())
