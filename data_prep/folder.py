"""Manifests for any folder of audio files: any rate, any number of channels, no transcripts needed.

All channels of a file are averaged when it is read, as they are of a folder that is itself a source.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lhotse.cut.data import DataCut
from tqdm import tqdm

from distill.atomic import write_text
from distill.data.files import audio_files, printable
from distill.data_prep.manifests import cut_of_all_channels, write_cuts
from distill.data_prep.written import Written
from distill.errors import DataError, UsageError
from distill.hashing import hash_number

SPLITS = ("train", "dev", "test")
"""Subfolders of these names are taken as the splits."""
_HEAD = "path\treason\n"  # of the list of what was left out


@dataclass(frozen=True, kw_only=True)
class FolderSummary:
    """What `prepare` found and wrote."""

    n_files: int
    """Audio files written to the manifests."""
    hours: float
    """Their total duration."""
    n_skipped: int
    """Files left out; `skipped.tsv` names them."""
    splits: dict[str, int]
    """Files per split."""

    def __str__(self) -> str:
        parts = ", ".join(f"{count} in {split}" for split, count in self.splits.items())
        skipped = f", {self.n_skipped} skipped (listed in skipped.tsv)" if self.n_skipped else ""
        return f"{self.n_files} files, {self.hours:.2f} h: {parts}{skipped}"


def prepare(
    root: Path,
    out: Path,
    *,
    split: str | None = None,
    dev_fraction: float = 0.05,
    seed: int = 0,
    jobs: int = 8,
) -> FolderSummary:
    """Write `out/train.jsonl.gz` and `out/dev.jsonl.gz` for all audio below `root`.

    Files go to train or dev by a hash of their path relative to `root`, so adding files moves no other. If
    `root` has a subfolder `train`, `dev` or `test` with audio, these subfolders are the splits and other
    audio is skipped. An utterance's id is its relative path without suffix. Unreadable files are
    skipped; `out/skipped.tsv` lists them with the reason.

    Args:
        root: folder of audio files, searched recursively.
        out: folder for the manifests, which name the audio by absolute paths.
        split: put everything into the manifest of this name instead: letters, digits, `_`, `.` and `-`.
        dev_fraction: part of the files that goes to dev, in [0, 1). Above 0, at least one of two files.
        seed: another seed draws another dev set.
        jobs: threads that read headers.

    Raises:
        DataError: `root` is missing, holds no readable audio, or `out` has a file of one of these names that
            was not written by this.
        UsageError: `split` is no plain name.
        ValueError: another option is out of range.
    """
    if not 0 <= dev_fraction < 1:
        raise ValueError(f"dev_fraction must be in [0, 1), not {dev_fraction}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    if split is not None and not re.fullmatch(r"\w[\w.-]*", split):
        raise UsageError(f"--split {split!r}: a manifest's name is a plain word such as test")
    root, out = Path(root), Path(out)
    files = [path.relative_to(root) for path in audio_files(root)]
    cuts, skipped = _read_headers(root, files, jobs)
    groups, strays = _assign(cuts, split, dev_fraction, seed)
    skipped += strays
    names = {"skipped.tsv", *(f"{name}.jsonl.gz" for name in (*groups, *(SPLITS if split is None else ())))}
    written = Written(out)
    written.claim(sorted(names), known=_of_earlier_version(out, names))
    _write_skipped(skipped, out / "skipped.tsv")
    written.note("skipped.tsv")
    n_files = sum(len(group) for group in groups.values())
    if n_files == 0:
        why = f"none of its {len(files)} audio files is usable, see {out / 'skipped.tsv'}"
        if not files:
            why = "holds no audio; name a folder with wav, flac, mp3, ogg, opus or aiff files"
        raise DataError(f"{root}: {why}")
    for name in SPLITS if split is None else ():
        (out / f"{name}.jsonl.gz").unlink(missing_ok=True)  # files of an earlier split could be in both
    for name, group in groups.items():
        write_cuts(group.values(), out / f"{name}.jsonl.gz")
    for name in sorted(names):
        written.note(name)
    return FolderSummary(
        n_files=n_files,
        hours=sum(cut.duration for group in groups.values() for cut in group.values()) / 3600,
        n_skipped=len(skipped),
        splits={name: len(group) for name, group in groups.items()},
    )


def _of_earlier_version(out: Path, names: set[str]) -> set[str]:
    """The files that an earlier version wrote: it noted none, but always wrote its list with them."""
    skipped = out / "skipped.tsv"
    if (out / "prepared.json").exists() or Written(out).has("skipped.tsv") or not skipped.is_file():
        return set()
    with skipped.open("rb") as stream:
        return names if stream.read(len(_HEAD)) == _HEAD.encode() else set()


Cuts = dict[Path, DataCut]
Skipped = list[tuple[Path, str]]


def _read_headers(root: Path, files: list[Path], jobs: int) -> tuple[Cuts, Skipped]:
    """Cuts by relative path, and (path, reason) of what cannot be read."""

    def read(path: Path) -> DataCut | str:
        try:
            path.as_posix().encode()
            return cut_of_all_channels(root / path, id=path.with_suffix("").as_posix())
        except UnicodeEncodeError:
            return "its name is not UTF-8, which manifests are written in; rename it"
        except DataError as error:
            return str(error)

    cuts: Cuts = {}
    skipped: Skipped = []
    owners: dict[str, Path] = {}
    with ThreadPoolExecutor(jobs) as pool:
        results = tqdm(
            pool.map(read, files), total=len(files), desc="reading headers", unit="file", disable=None
        )
        for path, found in zip(files, results, strict=True):
            if isinstance(found, str):
                skipped.append((path, found))
            elif found.id in owners:
                skipped.append((path, f"its id {found.id} is that of {owners[found.id]}"))
            else:
                owners[found.id] = path
                cuts[path] = found
    return cuts, skipped


def _assign(cuts: Cuts, split: str | None, dev_fraction: float, seed: int) -> tuple[dict[str, Cuts], Skipped]:
    """Non-empty groups of cuts by split name, and (path, reason) of what belongs to none."""
    if split is not None:
        return {split: cuts}, []
    by_folder = {name: {path: cut for path, cut in cuts.items() if path.parts[0] == name} for name in SPLITS}
    by_folder = {name: group for name, group in by_folder.items() if group}
    if by_folder:
        reason = f"outside the split folders {', '.join(by_folder)}"
        return by_folder, [(path, reason) for path in cuts if path.parts[0] not in by_folder]
    draws = {path: _draw(path, seed) for path in cuts}
    dev = {path for path, draw in draws.items() if draw < dev_fraction}
    ranked = sorted(draws, key=lambda path: (draws[path], path))
    if dev_fraction > 0:
        dev = (dev | set(ranked[:1])) - set(ranked[-1:])  # neither is empty; a single file goes to train
    groups = {
        "train": {path: cut for path, cut in cuts.items() if path not in dev},
        "dev": {path: cut for path, cut in cuts.items() if path in dev},
    }
    return {name: group for name, group in groups.items() if group}, []


def _draw(path: Path, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and the relative path alone."""
    return hash_number(f"{seed}:{path.as_posix()}") / 2**64


def _write_skipped(skipped: Skipped, path: Path) -> None:
    lines = [f"{name.as_posix()}\t{' '.join(reason.split())}\n" for name, reason in sorted(skipped)]
    write_text(path, printable(_HEAD + "".join(lines)))
