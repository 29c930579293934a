"""Targets of large corpora: made in blocks, by several processes, resumable.

A folder of targets holds `job.json` (what is being made of what), `codebook.npy`, `labels-00000.npz` and so
on, and last `targets.json`; while the k-means is not fitted yet, also `sample-00000.npy` and so on, frames
drawn for it. Each file appears complete or not at all, and one that exists is not made again.

Memory: the sampled frames (1.5 GB for 500 000 frames of 768 features) while the k-means is fitted, later one
block's labels a process and, in the end, all labels (2 bytes a frame: 350 MB for 960 hours). Features of a
corpus are never held or written, only those of the current utterance.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.adaptation.clustering import Clustering
from distill.adaptation.kmeans import fit_kmeans
from distill.adaptation.labelling import LABELS, SAMPLE, Job, TargetsMaker
from distill.adaptation.skipped import forget_skipped, judge_skipped, list_skipped
from distill.adaptation.targets import Targets, frame_facts, hash_codebook
from distill.adaptation.utterances import Speech, Utterances, describe_audio, list_utterances
from distill.atomic import atomic, read_json, write_json
from distill.data.arrays import DAMAGED, read_arrays
from distill.data.blocks import CPU_ONLY, BlockRunner, block_ranges, noted_settings
from distill.errors import DataError, differing_keys, first_line, refuse_other_settings

logger = logging.getLogger(__name__)

_PATIENCE_S = 600
"""For which targets of other audio may lie there before the first process deletes them."""

# Utterances of a block at least, of MFCC and of a layer: an interruption costs minutes, and a small corpus is
# done before another process would have started.
MIN_BLOCK = {"mfcc": 1000, "layer": 100}
MAX_BLOCKS = 256


def make_targets(
    cuts: Speech,
    folder: str | Path,
    clustering: Clustering,
    *,
    jobs: int = 1,
    devices: Sequence[torch.device] = CPU_ONLY,
    block_size: int | None = None,
    max_bad_fraction: float = 1.0,
    start_afresh: bool = False,
    progress: bool = True,
) -> Targets:
    """Cluster a corpus and label every utterance; continue where an interrupted call stopped.

    The result depends on neither `jobs` nor `devices` (but for rounding on a GPU). Utterances that are
    shorter than one frame or cannot be read are left out and listed in `skipped.tsv`; the next call tries
    them again.

    Args:
        cuts: the speech; ids are unique.
        folder: for the result and what is needed to resume; made if missing.
        clustering: what is clustered, and how.
        jobs: processes of one thread each; on a GPU at most one for each device. With 1, this process.
        devices: to compute features of a layer on; those of MFCC are computed on the CPU.
        block_size: utterances of a block; default: 1000 for MFCC and 100 for a layer, or more to have at
            most 256 blocks.
        max_bad_fraction: largest share of utterances that may be left out.
        start_afresh: delete what the folder holds if it was made from something else.
        progress: show bars on stderr.

    Returns:
        The targets, also in `folder` for `Targets.load`.

    Raises:
        ValueError: for a number of jobs out of range.
        DataError: for a folder whose contents were made from something else, duplicate ids, too few frames,
            too many unusable utterances, or if a process is killed.
    """
    folder = Path(folder)
    utterances = list_utterances(cuts)
    count = len(utterances.ids)
    size = block_size or max(MIN_BLOCK[clustering.features.split()[0]], -(-count // MAX_BLOCKS))
    settings = clustering.settings(utterances) | {
        "shard_size": size,
        "max_fit_frames": clustering.max_fit_frames,
        "audio": describe_audio(cuts, count, _ids_without_audio(folder)),
    }
    _claim(folder, settings, start_afresh)
    forget_skipped(folder)
    if (folder / "targets.json").exists():
        return Targets.load(folder)
    job = _job(cuts, folder, clustering, utterances, size)
    devices = CPU_ONLY if clustering.encoder is None else devices
    with BlockRunner(TargetsMaker(job), jobs=jobs, devices=devices) as runner:
        if not (folder / "codebook.npy").exists():
            _save_codebook(job, clustering, runner, progress)
        for part in folder.glob("sample-*.npy"):
            part.unlink()
        _run(runner, job, LABELS, f"{clustering.features} labels", progress)
    labels = [job.path(LABELS, block) for block in range(len(job.blocks))]
    totals, skipped = _add_up(labels)
    list_skipped(folder, skipped)
    settings["audio"] = describe_audio(cuts, count, [line.partition("\t")[0] for line in skipped])
    write_json(folder / "job.json", settings)
    judge_skipped(folder, len(skipped), count, max_bad_fraction)
    if not totals["utterances"]:
        raise DataError("not one utterance could be labelled: the warnings above say why")
    frames = frame_facts(job.config.hop, job.config.receptive_field)
    shards = {"shards": [path.name for path in labels], "codebook_hash": hash_codebook(folder)}
    write_json(folder / "targets.json", {"format": 2, **settings, **frames, **totals, **shards})
    return Targets.load(folder)


def wait_for_targets(
    cuts: Speech, folder: str | Path, clustering: Clustering, check: Callable[[], object] = lambda: None
) -> Targets:
    """The targets that another process makes by `make_targets` of the same arguments, once they exist.

    Args:
        cuts: the speech.
        folder: of the targets.
        clustering: what is clustered, and how.
        check: called every second; raises if the other process is no more.

    Raises:
        DataError: the targets are of other audio than this process finds, and stay so.
    """
    folder = Path(folder)
    utterances = list_utterances(cuts)
    wanted = clustering.settings(utterances)
    other, since = None, 0  # targets of other audio: old ones, which the first process will delete
    for seconds in itertools.count():
        found = _read_if_any(folder / "targets.json")
        if found is None or not wanted.items() <= found.items():
            other = None
        elif found != other:
            if _is_of(cuts, len(utterances.ids), found.get("audio")):
                break
            other, since = found, seconds
        elif seconds - since > _PATIENCE_S:
            raise DataError(
                f"{folder} has targets of other audio than this process finds: is the speech that the "
                "manifest names on this machine, too, and the same?"
            )
        check()
        if seconds == 60:
            logger.warning("waiting for the first process, which makes the targets in %s", folder)
        time.sleep(1.0)
    return Targets.load(folder)


def _read_if_any(path: Path) -> dict[str, Any] | None:
    """A JSON file that another process may be about to make or replace."""
    try:
        return read_json(path)
    except (OSError, ValueError):
        return None


def _is_of(cuts: Speech, count: int, audio: dict[str, Any] | None) -> bool:
    """Whether targets are of that audio; those of an earlier version do not say."""
    return audio is None or audio == describe_audio(cuts, count, audio["without"])


def _ids_without_audio(folder: Path) -> list[str]:
    """Ids of the utterances that the note of a folder's audio leaves out."""
    with contextlib.suppress(LookupError, TypeError):
        return (noted_settings(folder / "job.json") or {})["audio"]["without"]
    return []


def _claim(folder: Path, settings: dict[str, Any], start_afresh: bool) -> None:
    """Make sure that what is in the folder, if anything, was made with these settings."""
    found = noted_settings(folder / "job.json")
    if found is None and (folder / "targets.json").exists():
        found = {}
    if found is not None:
        unstated = dict.fromkeys(settings) | ({"audio": settings["audio"]} if found else {})
        differing = differing_keys(unstated | found, settings)
        if not start_afresh:
            refuse_other_settings(
                folder, differing, advice="choose another folder, or delete it", error=DataError
            )
        if differing:
            logger.info("%s: started afresh, %s changed", folder, ", ".join(differing))
            for pattern in ("targets.json", "codebook.npy", "sample-*.npy", "labels*.npz", "skipped.tsv"):
                for path in folder.glob(pattern):
                    path.unlink()
    for left_over in folder.glob(".*.np[yz]*"):  # of a process that was killed while writing
        left_over.unlink(missing_ok=True)
    write_json(folder / "job.json", settings)


def _job(cuts: Speech, folder: Path, clustering: Clustering, utterances: Utterances, size: int) -> Job:
    """What the processes have to know."""
    encoder = clustering.encoder
    return Job(
        cuts=cuts,
        folder=folder,
        blocks=block_ranges(len(utterances.ids), size),
        width=clustering.width,
        seed=clustering.seed,
        config=clustering.config,
        min_samples=clustering.min_samples,
        weights=None if encoder is None else {k: v.detach().cpu() for k, v in encoder.state_dict().items()},
        layer=clustering.layer,
        to_sample=clustering.frames_to_sample(utterances),
    )


def _save_codebook(job: Job, clustering: Clustering, runner: BlockRunner, progress: bool) -> None:
    """Write the given codebook, or one that is fitted now."""
    codebook = clustering.codebook
    if codebook is None:
        codebook = _fit(job, clustering, runner, progress)
    with atomic(job.folder / "codebook.npy") as path, path.open("wb") as stream:
        np.save(stream, codebook.float().numpy())


def _fit(job: Job, clustering: Clustering, runner: BlockRunner, progress: bool) -> Tensor:
    """The k-means of the sampled frames, which are drawn where they are missing."""
    _run(runner, job, SAMPLE, f"{clustering.features} features", progress)
    parts = [_sampled(job, block) for block in range(len(job.blocks))]
    sample = np.empty((sum(map(len, parts)), job.width), np.float32)
    if len(sample) < clustering.n_clusters:
        raise DataError(
            f"{len(sample)} frames of {clustering.features} are too few for {clustering.n_clusters} "
            "clusters: give more utterances or ask for fewer clusters"
        )
    np.concatenate(parts, out=sample)
    return fit_kmeans(torch.from_numpy(sample), clustering.n_clusters, job.seed)


def _sampled(job: Job, block: int) -> np.ndarray:
    """The frames drawn from a block, (F, D), as a mapping of their file."""
    path = job.path(SAMPLE, block)
    try:
        found = np.load(path, mmap_mode="r")
        if found.ndim != 2 or found.shape[1] != job.width:
            raise ValueError(f"an array {found.shape}, not of {job.width} features")
    except DAMAGED as error:
        raise DataError(f"{path} is damaged ({first_line(error)}): delete it and run again") from None
    return found


def _run(runner: BlockRunner, job: Job, kind: str, description: str, progress: bool) -> None:
    runner.run(
        kind,
        lambda: job.missing(kind),
        lambda block: len(job.wanted(kind, block)),
        description=description,
        progress=progress,
    )


def _add_up(labels: Sequence[Path]) -> tuple[dict[str, Any], list[str]]:
    """What `targets.json` says of all blocks, and the id and reason of what they left out."""
    utterances = frames = 0
    distance, distances = 0.0, 0
    skipped: list[str] = []
    for path in labels:
        try:
            arrays = read_arrays(path)
            utterances += len(arrays["ids"])
            frames += int(arrays["lengths"].sum())
            distance += float(arrays["squared_distance"])
            distances += int(arrays["frames"])
            skipped += arrays["skipped"].tolist() if "skipped" in arrays else []
        except DAMAGED as error:
            raise DataError(f"{path} is damaged ({first_line(error)}): delete it and run again") from None
    mean = distance / distances if distances else None
    return {"utterances": utterances, "frames": frames, "mean_squared_distance": mean}, skipped
