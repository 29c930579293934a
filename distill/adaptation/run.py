"""From an `AdaptRecipe` to a teacher in a run folder: targets, then masked prediction."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from distill.adaptation.codebooks import load_codebook
from distill.adaptation.heads import FILE as HEAD_FILE
from distill.adaptation.heads import head_of, read_head, reuse_head
from distill.adaptation.labelling import Speech
from distill.adaptation.masked_prediction import MaskedPrediction
from distill.adaptation.shards import make_shards
from distill.adaptation.targets import Targets
from distill.batch import Batch, pad
from distill.checkpoints import load_teacher
from distill.checkpoints.weights import write_safetensors
from distill.data import read_audio, samples_at_16k
from distill.datamodule import SpeechData
from distill.distortions import Distorter
from distill.errors import ConfigError
from distill.hubert import HubertConfig, HubertEncoder
from distill.manifest import Cuts
from distill.options import AdaptRecipe, TargetsConfig
from distill.processes import is_follower
from distill.runs import check_run_folder, fit, make_trainer, release, start_run_folder, versions

# What a head is tried on: enough to tell (some thousand masked frames), and a minute of a CPU at most.
HEAD_BATCHES, HEAD_BATCH, HEAD_SAMPLES = 16, 8, 160_000


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
    train, dev = make_both(data, out / "targets", recipe, encoder, trainer.strategy.root_device.type)
    data.targets = train.labels | dev.labels
    majority = majority_share(dev)
    head = read_head(recipe.teacher)
    module = MaskedPrediction(
        encoder.train(),
        train.n_clusters,
        final_dim=256 if head is None else len(head["final_proj.weight"]),
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
    if head is not None and not resume:
        _take_head(module, head, head_batches(data.dev_cuts, dev), recipe, trainer)
    fit(trainer, module, data, out, resume=resume)
    made = release(trainer, module.encoder, "encoder.", out, module.provenance)
    if trainer.is_global_zero:
        _keep_head(module, out)
    return made


def _take_head(
    module: MaskedPrediction,
    head: dict[str, Tensor],
    batches: Iterator[Batch],
    recipe: AdaptRecipe,
    trainer: pl.Trainer,
) -> None:
    """Use the teacher's head if it fits the targets, and say what was decided."""
    taken, why = reuse_head(module, head, batches, recipe.teacher)
    module.provenance["head"] = "the teacher's" if taken else "new"
    if trainer.is_global_zero:
        print(f"{recipe.name}: {why}", file=sys.stderr)


def _keep_head(module: MaskedPrediction, out: Path) -> None:
    """The head that belongs to the released teacher, for going on from it with the same codebook."""
    best = out / "checkpoints" / "best.ckpt"
    state = module.state_dict()
    if best.exists():
        state = torch.load(best, map_location="cpu", weights_only=True)["state_dict"]
    write_safetensors(out / HEAD_FILE, head_of(state))


def make_both(
    data: SpeechData, folder: Path, recipe: AdaptRecipe, encoder: HubertEncoder, device: str
) -> tuple[Targets, Targets]:
    """The targets of training and dev set, of one codebook; made in `folder` unless they are there."""
    options = recipe.targets
    if options.folder:
        given = Path(options.folder)
        return _made_before(given / "train", options), _made_before(given / "dev", options)
    codebook = load_codebook(options.codebook) if options.codebook else None
    try:
        train = targets_for(data.train_cuts, folder / "train", recipe, encoder, codebook, device)
        dev = targets_for(data.dev_cuts, folder / "dev", recipe, encoder, train.codebook, device)
    except ValueError as error:
        raise ConfigError(f"recipe {recipe.name}: targets: {error}") from None
    return train, dev


def targets_for(
    cuts: Speech,
    folder: Path,
    recipe: AdaptRecipe,
    encoder: HubertEncoder,
    codebook: Tensor | None,
    device: str,
) -> Targets:
    """The targets of a set: those in `folder` if it has them, otherwise made and kept there.

    Args:
        cuts: the speech.
        folder: of this set.
        recipe: its targets section and seed; without GPUs, as many processes as it has data workers.
        encoder: the teacher.
        codebook: (K, D), or None to fit one.
        device: "cpu" or "cuda", for features of a layer.
    """
    options = recipe.targets
    found = _matching(folder, options, codebook)
    while found is None and is_follower():
        time.sleep(1.0)  # the first process makes them
        found = _matching(folder, options, codebook)
    if found is not None:
        return found
    of_layer = options.features == "layer"
    device = device if of_layer else "cpu"
    jobs = torch.cuda.device_count() if device == "cuda" else max(1, recipe.data.workers)
    return make_shards(
        cuts,
        folder,
        n_clusters=options.clusters if codebook is None else len(codebook),
        seed=recipe.seed,
        encoder=encoder if of_layer else None,
        layer=options.layer if of_layer else None,
        codebook=codebook,
        jobs=jobs,
        device=device,
        sample_hours=options.sample_hours,
        start_afresh=True,
    )


def _matching(folder: Path, options: TargetsConfig, codebook: Tensor | None) -> Targets | None:
    """What the folder holds, if it is complete and of the features and clusters that are wanted."""
    if not (folder / "targets.json").exists():
        return None
    found = Targets.load(folder)
    clusters = options.clusters if codebook is None else len(codebook)
    same = codebook is None or torch.equal(found.codebook, codebook)
    return found if same and (found.features, found.n_clusters) == (_name(options), clusters) else None


def _made_before(folder: Path, options: TargetsConfig) -> Targets:
    """Targets that the recipe names, which must be what it says they are."""
    found = Targets.load(folder)
    if found.features != _name(options) or (not options.codebook and found.n_clusters != options.clusters):
        raise ConfigError(
            f"{folder} holds {found.n_clusters} clusters of {found.features}, the recipe wants "
            f"{options.clusters} of {_name(options)}: set targets.features, targets.layer and "
            "targets.clusters accordingly, or leave targets.folder out"
        )
    return found


def _name(options: TargetsConfig) -> str:
    return f"layer {options.layer}" if options.features == "layer" else "mfcc"


def head_batches(cuts: Cuts, targets: Targets) -> Iterator[Batch]:
    """A few clean utterances from all over the dev set, with targets, to try a head on."""
    wanted = np.linspace(0, len(cuts) - 1, min(HEAD_BATCHES * HEAD_BATCH, len(cuts))).round().astype(int)
    labelled = (cut for cut in (cuts[number] for number in wanted) if cut.id in targets.labels)
    for _ in range(HEAD_BATCHES):
        group = list(itertools.islice(labelled, HEAD_BATCH))
        if not group:
            return
        waveforms, lengths = pad(
            [read_audio(cut, 0, min(samples_at_16k(cut), HEAD_SAMPLES)) for cut in group]
        )
        labels = torch.full((len(group), HubertConfig().frames(waveforms.shape[1])), -1)
        for row, cut in zip(labels, group, strict=True):
            found = torch.from_numpy(targets.labels[cut.id].astype(np.int64))[: len(row)]
            row[: len(found)] = found
        yield Batch([cut.id for cut in group], waveforms, lengths, targets=labels)


def majority_share(targets: Targets) -> float:
    """Share of the frames that carry the most frequent label: what guessing it would get right."""
    counts = targets.counts()
    return float(counts.max() / counts.sum())
