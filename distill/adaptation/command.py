"""What `distill adapt targets` does: make targets of a recipe's speech or of any other, and judge them.

With a recipe the folder gets `train` and `dev`, which `targets.folder` of a recipe takes; with a manifest,
TSV or folder of audio it holds the targets of that speech itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from distill.adaptation.clustering import Clustering
from distill.adaptation.fairseq_labels import export_fairseq, write_manifest
from distill.adaptation.quality import measure
from distill.adaptation.target_making import make_targets
from distill.adaptation.targets import Targets
from distill.adaptation.targets_options import TargetsOptions
from distill.adaptation.utterances import Speech, each
from distill.atomic import read_json, write_json
from distill.checkpoints import load_hubert
from distill.checkpoints.codebooks import load_codebook
from distill.config import load, recipe_names
from distill.data.sources import open_cuts
from distill.errors import ConfigError, UsageError
from distill.hubert import HubertEncoder
from distill.options import AdaptRecipe, DataConfig, Recipe, TargetsConfig
from distill.training.devices import devices_of

_RECIPE_SUFFIXES = (".yaml", ".yml")
_FAIRSEQ_NAMES = {"train": "train", "dev": "valid", "": "train"}


def make_and_report(job: TargetsOptions) -> str:
    """Make targets as asked for, and everything that is written with them.

    Returns:
        What to print: per set how the clusters are used, and their quality where phones are known.

    Raises:
        UserError: for anything the user can fix.
    """
    recipe, sets = _speech(job)
    options = _options(job, recipe)
    seed = job.seed if job.seed is not None else recipe.seed if recipe else 0
    torch.manual_seed(seed)  # for a random teacher: `distill adapt` makes the same one
    model = _model(job.teacher or (recipe.teacher if recipe else None), options)
    made: dict[str, tuple[Speech, Targets]] = {}
    lines: list[str] = []
    codebook = load_codebook(options.codebook) if options.codebook else None
    for name, cuts in sets.items():
        folder = job.out / name
        try:
            clustering = Clustering(
                n_clusters=options.clusters if codebook is None else len(codebook),
                seed=seed,
                encoder=model if options.features == "layer" else None,
                layer=options.layer if options.features == "layer" else None,
                model=model.config if model is not None else None,
                codebook=codebook,
                sample_hours=options.sample_hours,
            )
            targets = _make(job, recipe, cuts, folder, clustering)
        except ValueError as error:
            raise ConfigError(f"{job.source}: {error}") from None
        codebook = targets.codebook  # the dev set is labelled with the clusters of the training set
        made[name] = (cuts, targets)
        lines += describe(cuts, targets, folder)
        if job.manifests:
            lines.append(str(write_manifest(cuts, targets, folder / "cuts.jsonl.gz")))
    if job.export_fairseq is not None:
        options_line = export_fairseq({_FAIRSEQ_NAMES[k]: v for k, v in made.items()}, job.export_fairseq)
        lines.append(f"fairseq-hydra-train ... {options_line}")
    return "\n".join(lines)


def _make(
    job: TargetsOptions, recipe: AdaptRecipe | None, cuts: Speech, folder: Path, clustering: Clustering
) -> Targets:
    """The targets of one set."""
    limit = recipe.data.max_bad_fraction if recipe else DataConfig().max_bad_fraction
    devices = devices_of(recipe or Recipe()) if clustering.encoder is not None else [torch.device("cpu")]
    return make_targets(
        cuts,
        folder,
        clustering,
        jobs=job.jobs or (len(devices) if devices[0].type == "cuda" else _cores()),
        devices=devices,
        max_bad_fraction=limit if job.max_bad_fraction is None else job.max_bad_fraction,
    )


def _model(teacher: str | None, options: TargetsConfig) -> HubertEncoder | None:
    """The model whose layer is clustered, or whose frames get labels of MFCC; None: HuBERT's 50 Hz.

    For MFCC nothing is downloaded: models that are published have 50 frames a second, and `distill adapt`
    refuses targets of another rate than its teacher's.
    """
    if options.features == "layer":
        if teacher is None:
            raise UsageError("features of a layer need a model: name it with --teacher")
        if teacher.startswith("random:"):
            raise UsageError(
                f"layer {options.layer} of {teacher} has learned nothing: name the model whose layer is to "
                "be clustered with --teacher (of a second iteration, the run of the first)"
            )
        return load_hubert(teacher)
    if teacher is None:
        return None
    is_local = teacher.startswith("random:") or Path(teacher).expanduser().exists()
    return load_hubert(teacher) if is_local else None


def describe(cuts: Speech, targets: Targets, folder: Path) -> list[str]:
    """Lines about a set of targets; also kept in `report.json` in its folder."""
    made = read_json(folder / "targets.json")
    counts = targets.counts()
    share = counts[counts > 0] / counts.sum()
    report = {
        "utterances": len(targets.labels),
        "frames": targets.n_frames,
        "hours": round(targets.n_frames / targets.frame_rate_hz / 3600, 4),
        "clusters": targets.n_clusters,
        "clusters_used": int((counts > 0).sum()),
        "most_frequent_share": round(float(share.max()), 5),
        "perplexity": round(float(np.exp(-(share * np.log(share)).sum())), 3),
        "mean_squared_distance": made.get("mean_squared_distance"),
    }
    found = measure(each(cuts), targets)
    if found is not None:
        report["quality"] = found.to_dict()
    write_json(folder / "report.json", report)
    lines = [
        f"{folder}: {report['utterances']} utterances, {report['hours']:.2f} h, {targets.features}",
        f"  clusters: {report['clusters_used']} of {targets.n_clusters} used, perplexity "
        f"{report['perplexity']:.1f}, the most frequent has {share.max():.1%} of the frames",
        f"  inertia: {report['mean_squared_distance']:.5g} a frame",
    ]
    if found is None:
        return [*lines, "  no phone alignments: purity is unknown"]
    return [
        *lines,
        f"  phone purity {found.phone_purity:.3f}, cluster purity {found.cluster_purity:.3f}, "
        f"PNMI {found.pnmi:.3f} ({found.phones} phones, {found.frames} frames)",
    ]


def _speech(job: TargetsOptions) -> tuple[AdaptRecipe | None, dict[str, Speech]]:
    """The recipe, if there is one, and the sets of speech by subfolder of the output."""
    if job.source in recipe_names() or job.source.endswith(_RECIPE_SUFFIXES):
        recipe = load(job.source, job.overrides)
        if not isinstance(recipe, AdaptRecipe):
            raise UsageError(f"{job.source} is no recipe of `distill adapt`: its kind is {recipe.kind}")
        return recipe, {"train": open_cuts(recipe.data.train), "dev": open_cuts(recipe.data.dev)}
    if job.overrides:
        raise UsageError(f"{job.overrides[0]}: only a recipe has keys to change, {job.source} is speech")
    return None, {"": open_cuts(job.source)}


def _options(job: TargetsOptions, recipe: AdaptRecipe | None) -> TargetsConfig:
    """The recipe's targets section with the changes of the command line."""
    base = recipe.targets if recipe else TargetsConfig()
    if job.features == "mfcc" and job.layer is not None:
        raise UsageError("--layer is for --features layer, not mfcc")
    if job.clusters is not None and (job.codebook or base.codebook):
        raise UsageError("the codebook decides how many clusters there are: leave --clusters away")
    features = job.features or ("layer" if job.layer is not None else base.features)
    try:
        return TargetsConfig(
            features=features,
            layer=base.layer if job.layer is None else job.layer,
            clusters=base.clusters if job.clusters is None else job.clusters,
            codebook=job.codebook or base.codebook,
            sample_hours=base.sample_hours if job.sample_hours is None else job.sample_hours,
        )
    except ValueError as error:
        raise UsageError(f"targets: {error}") from None


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
