"""Targets of large corpora: made in shards, by several processes, resumable.

A folder of targets holds `job.json` (what is being made of what), `codebook.npy`, `labels-00000.npz` and so
on, and last `targets.json`; while the k-means is not fitted yet, also `sample-00000.npy` and so on, frames
drawn for it. Each file appears whole or not at all, and one that is there is not made again.

Memory: the sampled frames (1.5 GB for 500 000 frames of 768 features) while the k-means is fitted, later one
shard's labels a process and, in the end, all labels (2 bytes a frame: 350 MB for 960 hours). Features of a
corpus are never held or written, only those of the utterance at hand.

Shapes: F frames, D features, K clusters.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.adaptation.labelling import Job, ShardMaker, Speech, each, labels_name, sample_name
from distill.adaptation.mfcc import STEP, WIDTH, WINDOW, check_rate
from distill.adaptation.skipped import forget_skipped, judge_skipped, list_skipped
from distill.adaptation.targets import MAX_CLUSTERS, Targets, fit_kmeans, frame_facts
from distill.adaptation.workers import CPU_ONLY, run_shards
from distill.checkpoints.files import atomic
from distill.data.audio import samples_at_16k
from distill.data.contents import contents_of
from distill.data.sources import twins
from distill.errors import DataError, first_line
from distill.hashing import hash_number
from distill.hubert import HubertConfig, HubertEncoder, beyond_weights
from distill.waveforms import SAMPLE_RATE

logger = logging.getLogger(__name__)

# Utterances of a shard at least, of MFCC and of a layer: an interruption costs minutes, and a small corpus is
# done before another process would have started.
MIN_SHARD = {"mfcc": 1000, "layer": 100}
MAX_SHARDS = 256
MOST_COMPARED = 20_000  # utterances whose audio tells one corpus from another: enough, and minutes at most


@dataclass(frozen=True)
class Stock:
    """What a corpus holds, in the order of its manifest."""

    ids: list[str]
    n_samples: np.ndarray
    """(N,) int64 at 16 kHz."""

    @property
    def hours(self) -> float:
        """Of speech."""
        return float(self.n_samples.sum()) / SAMPLE_RATE / 3600

    def digest(self) -> str:
        """Changes with any id or length."""
        text = "\n".join(f"{name}\t{n}" for name, n in zip(self.ids, self.n_samples.tolist(), strict=True))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def take_stock(cuts: Speech) -> Stock:
    """Ids and lengths of all cuts; no audio is read.

    Raises:
        DataError: if two cuts have the same id, or there is none.
    """
    lengths: dict[str, int] = {}
    for cut in each(cuts):
        if cut.id in lengths:
            first = next(one for one in each(cuts) if one.id == cut.id)
            raise twins(first, cut, "the speech")
        lengths[cut.id] = samples_at_16k(cut)
    if not lengths:
        raise DataError("there are no utterances to make targets from: check the manifest")
    return Stock(list(lengths), np.array(list(lengths.values()), np.int64))


def make_shards(
    cuts: Speech,
    folder: str | Path,
    *,
    n_clusters: int,
    seed: int,
    encoder: HubertEncoder | None = None,
    layer: int | None = None,
    model: HubertConfig | None = None,
    codebook: Tensor | None = None,
    jobs: int = 1,
    devices: Sequence[torch.device] = CPU_ONLY,
    sample_hours: float = 100.0,
    max_fit_frames: int = 500_000,
    shard_size: int | None = None,
    max_bad_fraction: float = 1.0,
    start_afresh: bool = False,
    progress: bool = True,
) -> Targets:
    """Cluster a corpus and label every utterance; go on where an interrupted call stopped.

    The result depends on none of `jobs` and `devices` (but for rounding on a GPU). Up to `sample_hours` and
    `max_fit_frames` the codebook is that of `make_targets`. Utterances that are shorter than one frame or
    cannot be read are left out and listed in `skipped.tsv`; the next call tries them again.

    Args:
        cuts: the speech; ids are unique.
        folder: for the result and what is needed to resume; made if missing.
        n_clusters: K.
        seed: of the sample and the k-means.
        encoder: the model whose features are clustered; None for MFCC.
        layer: of the encoder, 1 is the first.
        model: whose frames get the labels of MFCC; default: HuBERT base's, at 50 Hz. Those of a layer are at
            its encoder's own rate.
        codebook: (K, D), label with these clusters instead of fitting new ones.
        jobs: processes of one thread each; on a GPU at most one for each device. With 1, this process.
        devices: to compute features of a layer on; those of MFCC are computed on the CPU.
        sample_hours: the k-means is fitted on frames of random utterances of about so many hours in all.
        max_fit_frames: a random choice of so many of their frames (100 a second of MFCC, 50 of most layers).
        shard_size: utterances of a shard; default: 1000 for MFCC and 100 for a layer, or more to have at
            most 256 shards.
        max_bad_fraction: largest share of utterances that may be left out.
        start_afresh: throw away what the folder holds if it was made from something else.
        progress: show bars on stderr.

    Returns:
        The targets, also in `folder` for `Targets.load`.

    Raises:
        ValueError: for a value out of range, a layer without an encoder or the reverse, a layer that the
            encoder does not have, or a model whose frames MFCC do not fit.
        DataError: for a folder whose contents were made from something else, duplicate ids, a codebook of
            another width, too few frames, too many unusable utterances, or if a process is killed.
    """
    folder = Path(folder)
    config = encoder.config if encoder is not None else model or HubertConfig()
    width = _check(encoder, layer, config, codebook, n_clusters, max_fit_frames, sample_hours)
    stock = take_stock(cuts)
    least = MIN_SHARD["mfcc" if layer is None else "layer"]
    size = shard_size or max(least, -(-len(stock.ids) // MAX_SHARDS))
    description = _describe(stock, n_clusters, seed, encoder, layer, config, codebook, sample_hours) | {
        "shard_size": size,
        "max_fit_frames": max_fit_frames,
        "audio": describe_audio(cuts, len(stock.ids), _without(folder)),
    }
    _claim(folder, description, start_afresh)
    forget_skipped(folder)
    if (folder / "targets.json").exists():
        return Targets.load(folder)
    job = Job(
        cuts=cuts,
        folder=folder,
        n_cuts=len(stock.ids),
        shard_size=size,
        width=width,
        seed=seed,
        config=config,
        shortest=_shortest(config, layer),
        weights=None if encoder is None else {k: v.detach().cpu() for k, v in encoder.state_dict().items()},
        layer=layer,
        keep=_frames_to_keep(stock, _frames_of(stock, config, layer), seed, sample_hours, max_fit_frames),
    )
    shards = range(-(-job.n_cuts // size))
    devices = devices if encoder is not None else CPU_ONLY
    with run_shards(ShardMaker(job, str(devices[0])), jobs, devices) as run:
        if not (folder / "codebook.npy").exists():
            fitted = codebook if codebook is not None else _fit(job, shards, n_clusters, run, progress)
            with atomic(folder / "codebook.npy") as path, path.open("wb") as stream:
                np.save(stream, fitted.float().numpy())
        for part in folder.glob("sample-*.npy"):
            part.unlink()
        missing = [index for index in shards if not (folder / labels_name(index)).exists()]
        total = sum(len(job.positions(index)) for index in missing)
        _with_bar(run, "label", missing, f"{description['features']} labels", total, progress)
    labelled = [labels_name(index) for index in shards]
    skipped = list_skipped(folder, labelled)
    description["audio"] = describe_audio(cuts, len(stock.ids), skipped)
    _sign(folder, description)
    judge_skipped(folder, len(skipped), len(stock.ids), max_bad_fraction)
    _finish(folder, description | frame_facts(config.hop, config.receptive_field), labelled)
    return Targets.load(folder)


def wait_for_shards(
    cuts: Speech,
    folder: str | Path,
    *,
    n_clusters: int,
    seed: int,
    encoder: HubertEncoder | None = None,
    layer: int | None = None,
    model: HubertConfig | None = None,
    codebook: Tensor | None = None,
    sample_hours: float = 100.0,
) -> Targets:
    """The targets that another process makes by `make_shards` of the same arguments, when they are there."""
    folder = Path(folder)
    config, stock = encoder.config if encoder is not None else model or HubertConfig(), take_stock(cuts)
    wanted = _describe(stock, n_clusters, seed, encoder, layer, config, codebook, sample_hours)
    for seconds in itertools.count():
        with contextlib.suppress(OSError, ValueError):  # not there yet, or just being replaced
            found = json.loads((folder / "targets.json").read_text(encoding="utf-8"))
            if wanted.items() <= found.items() and _is_of(cuts, len(stock.ids), found.get("audio")):
                break
        if seconds == 60:
            logger.warning("waiting for the first process, which makes the targets in %s", folder)
        time.sleep(1.0)
    return Targets.load(folder)


def _describe(
    stock: Stock,
    n_clusters: int,
    seed: int,
    encoder: HubertEncoder | None,
    layer: int | None,
    config: HubertConfig,
    codebook: Tensor | None,
    sample_hours: float,
) -> dict[str, Any]:
    """What targets are of: others must not be taken for them."""
    frames, usual = ((c.hop, c.receptive_field) for c in (config, HubertConfig()))
    other_frames = {} if frames == usual else {"frames": list(frames)}  # at 50 Hz as it was before
    return other_frames | {
        "features": "mfcc" if layer is None else f"layer {layer}",
        "n_clusters": n_clusters,
        "seed": seed,
        "speech": stock.digest(),
        "weights": None if encoder is None else _identity(encoder),
        "codebook": None if codebook is None else _digest([codebook]),
        "sample_hours": sample_hours,
    }


def describe_audio(cuts: Speech, count: int, without: Iterable[str]) -> dict[str, Any]:
    """A name of what some speech holds, by at most `MOST_COMPARED` utterances spread over all.

    Args:
        cuts: the speech.
        count: how many utterances it has.
        without: ids of those that have no labels: they may be mended at any time.
    """
    wanted = set(np.linspace(0, count - 1, min(count, MOST_COMPARED)).round().astype(int).tolist())
    left_out = set(without)
    some = [cut for number, cut in enumerate(each(cuts)) if number in wanted and cut.id not in left_out]
    return {"contents": contents_of(some, in_full=False, missing_ok=True), "without": sorted(left_out)}


def _is_of(cuts: Speech, count: int, audio: dict[str, Any] | None) -> bool:
    """Whether targets are of that audio; those of an earlier version do not say."""
    return audio is None or audio == describe_audio(cuts, count, audio["without"])


def _without(folder: Path) -> list[str]:
    """Ids of the utterances that the audio of a folder's targets is noted without."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        return json.loads((folder / "job.json").read_text(encoding="utf-8"))["audio"]["without"]
    return []


Run = Callable[[str, list[int], Callable[[int], Any]], None]


def _fit(job: Job, shards: Iterable[int], n_clusters: int, run: Run, progress: bool) -> Tensor:
    """The k-means of the sampled frames, which are drawn where they are missing."""
    missing = [index for index in shards if not (job.folder / sample_name(index)).exists()]
    total = int(sum((job.keep[job.positions(index)] > 0).sum() for index in missing))
    name = "mfcc" if job.layer is None else f"layer {job.layer}"
    _with_bar(run, "sample", missing, f"{name} features", total, progress)
    parts = [np.load(job.folder / sample_name(index), mmap_mode="r") for index in shards]
    sample = np.empty((sum(map(len, parts)), job.width), np.float32)
    if len(sample) < n_clusters:
        raise DataError(
            f"{len(sample)} frames of {name} are too few for {n_clusters} clusters: "
            "give more utterances or ask for fewer clusters"
        )
    np.concatenate(parts, out=sample)
    return fit_kmeans(torch.from_numpy(sample), n_clusters, job.seed)


def _with_bar(run: Run, kind: str, shards: list[int], description: str, total: int, progress: bool) -> None:
    from tqdm import tqdm

    with tqdm(total=total, desc=description, unit="utt", disable=None if progress else True) as bar:
        run(kind, shards, bar.update)


def _finish(folder: Path, description: dict[str, Any], shards: list[str]) -> None:
    """Write targets.json, which says that the rest is complete."""
    utterances = frames = 0
    distance, distances = 0.0, 0
    for name in shards:
        try:
            with np.load(folder / name, allow_pickle=False) as arrays:
                utterances += len(arrays["ids"])
                frames += int(arrays["lengths"].sum())
                distance += float(arrays["squared_distance"])
                distances += int(arrays["frames"])
        except (OSError, EOFError, KeyError, ValueError) as error:
            raise DataError(
                f"{folder / name} is damaged ({first_line(error)}): delete it and run again"
            ) from None
    if not utterances:
        raise DataError("not one utterance could be labelled: the warnings above say why")
    values = {
        "format": 2,
        **description,
        "utterances": utterances,
        "frames": frames,
        "mean_squared_distance": distance / distances,
        "shards": shards,
    }
    with atomic(folder / "targets.json") as path:
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _claim(folder: Path, description: dict[str, Any], start_afresh: bool) -> None:
    """See to it that what is in the folder, if anything, belongs to this job."""
    stamp = folder / "job.json"
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
        found = found if isinstance(found, dict) else {}
    except (FileNotFoundError, NotADirectoryError):
        found = {} if (folder / "targets.json").exists() else None
    except (OSError, ValueError):
        found = {}
    if found and "audio" not in found:  # of an earlier version: not asked about
        found["audio"] = description["audio"]
    changed = [key for key, value in description.items() if found is not None and found.get(key) != value]
    if changed:
        if not start_afresh:
            raise DataError(
                f"{folder} holds targets that were made otherwise ({', '.join(changed)} differ): choose "
                "another folder, or delete it"
            )
        logger.info("%s: started afresh, %s changed", folder, ", ".join(changed))
        for pattern in ("targets.json", "codebook.npy", "sample-*.npy", "labels*.npz", "skipped.tsv"):
            for path in folder.glob(pattern):
                path.unlink()
    for left_over in folder.glob(".*.np[yz]*"):  # of a process that was killed while writing
        left_over.unlink(missing_ok=True)
    _sign(folder, description)


def _sign(folder: Path, description: dict[str, Any]) -> None:
    """Note what a folder's targets are of."""
    with atomic(folder / "job.json") as path:
        path.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _shortest(config: HubertConfig, layer: int | None) -> int:
    """Samples that an utterance must have: a frame of the model and, for MFCC, of those."""
    return max(WINDOW, config.receptive_field) if layer is None else config.receptive_field


def _frames_of(stock: Stock, config: HubertConfig, layer: int | None) -> np.ndarray:
    """(N,) frames of features of each utterance."""
    frames = (stock.n_samples - WINDOW) // STEP + 1 if layer is None else config.frames(stock.n_samples)
    return np.where(stock.n_samples < _shortest(config, layer), 0, frames)


def _frames_to_keep(
    stock: Stock, frames: np.ndarray, seed: int, sample_hours: float, max_frames: int
) -> np.ndarray:
    """(N,) how many frames of each utterance go into the sample.

    Utterances are chosen by a hash of their id; of all frames of the chosen, max_frames are shared out in
    proportion to the lengths, to the frame.
    """
    frames = frames.copy()
    share = sample_hours / stock.hours if stock.hours else 1.0
    if share < 1.0:
        lots = np.array([hash_number(seed, "k-means", name) for name in stock.ids], np.float64)
        frames[lots / 2.0**64 >= share] = 0
    total = int(frames.sum())
    if total <= max_frames:
        return frames
    ends = np.cumsum(frames) * max_frames // total
    return np.diff(ends, prepend=0)


def _check(
    encoder: HubertEncoder | None,
    layer: int | None,
    config: HubertConfig,
    codebook: Tensor | None,
    n_clusters: int,
    max_fit_frames: int,
    sample_hours: float,
) -> int:
    """D, if the arguments fit together."""
    if (encoder is None) != (layer is None):
        raise ValueError("encoder and layer go together: give both, or neither for MFCC")
    if encoder is not None and layer is not None and not 1 <= layer <= encoder.config.layers:
        raise ValueError(f"layer must be in 1..{encoder.config.layers}, not {layer}")
    if encoder is None:
        check_rate(config)
    if not 1 <= n_clusters <= MAX_CLUSTERS:
        raise ValueError(f"n_clusters must be in 1..{MAX_CLUSTERS}, not {n_clusters}")
    if max_fit_frames < n_clusters:
        raise ValueError(f"max_fit_frames is {max_fit_frames}, fewer than the {n_clusters} clusters")
    if sample_hours <= 0:
        raise ValueError(f"sample_hours must be positive, not {sample_hours}")
    width = WIDTH if encoder is None else encoder.config.dim
    if codebook is not None and codebook.shape != (n_clusters, width):
        what = "MFCC" if encoder is None else f"layer {layer}"
        raise DataError(
            f"the codebook is {tuple(codebook.shape)}, but {n_clusters} clusters of {what} need "
            f"{(n_clusters, width)}: it was made of other features"
        )
    return width


def _identity(encoder: HubertEncoder) -> str:
    """Changes with anything that the features depend on."""
    return " ".join(filter(None, (_digest(encoder.state_dict().values()), beyond_weights(encoder.config))))


def _digest(tensors: Iterable[Tensor]) -> str:
    """Changes with any number of the tensors."""
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
