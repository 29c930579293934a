"""Labels in the forms that other programs read: fairseq's .tsv and .km files, and lhotse manifests.

fairseq's HuBERT task reads `SPLIT.tsv` (a root folder, then a relative path and a number of samples a line),
`SPLIT.km` (the clusters of an utterance's frames, separated by spaces) and `dict.km.txt` (each cluster and a
count), all in one folder. Its audio files are entire recordings at 16 kHz.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse import CutSet, Recording
from lhotse.cut import Cut
from lhotse.cut.data import DataCut
from lhotse.utils import fastcopy

from distill.adaptation.targets import Targets
from distill.adaptation.utterances import Speech, each
from distill.atomic import atomic, write_text
from distill.errors import DataError
from distill.waveforms import SAMPLE_RATE

CUSTOM_FIELD = "kmeans"  # where icefall's HuBERT recipes look


@dataclass(frozen=True)
class _File:
    path: str
    n_samples: int
    labels: np.ndarray


def export_fairseq(splits: Mapping[str, tuple[Speech, Targets]], folder: str | Path) -> str:
    """Write what `fairseq-hydra-train` needs to continue masked prediction in an environment of its own.

    Args:
        splits: by name ("train", "valid"), the speech and its targets, all of one codebook; cuts without
            labels are left out.
        folder: made if missing.

    Returns:
        The options of `fairseq-hydra-train` that use the folder.

    Raises:
        DataError: for cuts that are not entire audio files at 16 kHz, or paths that cannot be written in a
            .tsv.
        ValueError: if the splits have codebooks of different size.
    """
    folder = Path(folder)
    sizes = {targets.n_clusters for _, targets in splits.values()}
    if len(sizes) != 1:
        raise ValueError(f"splits must share one codebook, not have {sorted(sizes)} clusters")
    (rate_hz,) = {targets.frame_rate_hz for _, targets in splits.values()}  # of one model
    for split, (cuts, targets) in splits.items():
        _write_split(folder, split, list(_files(cuts, targets)))
    # every cluster with the same count: fairseq keeps the order of the file, so row k is cluster k
    write_text(folder / "dict.km.txt", "".join(f"{cluster} 1\n" for cluster in range(sizes.pop())))
    where = folder.absolute()
    return (
        f"task.data={where} task.label_dir={where} task.labels='[\"km\"]' "
        f"model.label_rate={rate_hz:g} task.sample_rate={SAMPLE_RATE}"
    )


def write_manifest(cuts: Speech, targets: Targets, path: str | Path) -> Path:
    """Write a lhotse manifest whose cuts carry their labels, as text, in `custom["kmeans"]`.

    Args:
        cuts: the speech; those without labels are left out.
        targets: labels by cut id.
        path: a .jsonl.gz.
    """
    path = Path(path)
    with atomic(path) as temporary, CutSet.open_writer(temporary) as writer:
        for cut in each(cuts):
            labels = targets.labels.get(cut.id)
            if labels is None:
                continue
            if not isinstance(cut, DataCut):
                raise DataError(f"{cut.id} is a mixture, which cannot carry labels: write it to a file")
            custom = {**(cut.custom or {}), CUSTOM_FIELD: _line(labels)}
            writer.write(fastcopy(cut, custom=custom))  # the caller's cut stays as it is
    return path


def _line(labels: np.ndarray) -> str:
    return " ".join(map(str, labels.tolist()))


def _files(cuts: Speech, targets: Targets) -> Iterator[_File]:
    """The labelled cuts as audio files."""
    for cut in each(cuts):
        labels = targets.labels.get(cut.id)
        if labels is None:
            continue
        recording = _entire_file(cut)
        if recording is None:
            raise DataError(
                f"{cut.id} is not an entire audio file at 16 kHz, and fairseq reads nothing else: write such "
                "files first with `distill data distort ... --condition clean`, and make the targets of those"
            )
        path = os.path.abspath(str(recording.sources[0].source))
        if "\t" in path or "\n" in path:
            raise DataError(f"{cut.id}: {path!r} cannot be a line of fairseq's .tsv: rename the file")
        yield _File(path, recording.num_samples, labels)


def _entire_file(cut: Cut) -> Recording | None:
    """The audio file at 16 kHz that a cut is all of, if it is."""
    recording = cut.recording if isinstance(cut, DataCut) else None
    if recording is None or recording.transforms or recording.sampling_rate != SAMPLE_RATE:
        return None
    entire = cut.start == 0 and abs(cut.duration - recording.duration) < 0.5 / SAMPLE_RATE
    one_file = len(recording.sources) == 1 and recording.sources[0].type == "file"
    return recording if entire and one_file else None


def _write_split(folder: Path, split: str, files: list[_File]) -> None:
    if not files:
        raise DataError(f"{split}: not one utterance has labels: make its targets first")
    root = os.path.commonpath([os.path.dirname(file.path) for file in files])
    with atomic(folder / f"{split}.tsv") as path, path.open("w", encoding="utf-8") as stream:
        stream.write(f"{root}\n")
        stream.writelines(f"{os.path.relpath(file.path, root)}\t{file.n_samples}\n" for file in files)
    with atomic(folder / f"{split}.km") as path, path.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{_line(file.labels)}\n" for file in files)
