"""Manifests of existing Shar shards (lhotse), by which training reads them in any order."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from lhotse.cut import Cut
from tqdm import tqdm

from distill.data.shar import located_cuts
from distill.data_prep.manifests import write_cuts
from distill.data_prep.written import Written
from distill.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SharPrepared:
    """What `prepare` found and wrote; as a string, what the command line prints."""

    out: Path
    splits: tuple[tuple[str, int, int, float], ...]
    """(name, shards, utterances, hours) of each folder of shards."""

    def __str__(self) -> str:
        lines = [
            f"{n} utterances, {hours:.2f} h, in {shards} shards: {self.out / name}.jsonl.gz"
            for name, shards, n, hours in self.splits
        ]
        return "\n".join(lines)


def prepare(root: Path, out: Path, *, jobs: int = 8) -> SharPrepared:
    """Write `out/SPLIT.jsonl.gz` for every folder of Shar shards in `root`, which may be one itself.

    SPLIT is the folder's name, or its path from `root` with dashes. Of the tar files, only headers are read.

    Args:
        root: folder with `cuts.000000.jsonl.gz`, `recording.000000.tar` and so on, or of such folders.
        out: folder for the manifests, which name the shards by absolute paths.
        jobs: threads.

    Raises:
        DataError: there are no shards, or a tar file is missing or broken.
        ValueError: jobs is not positive.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    root = Path(root).absolute()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; --root names the folder that holds the shards")
    folders = sorted({path.parent for path in root.rglob("cuts.*.jsonl.gz")})
    if not folders:
        raise DataError(f"{root}: no shards in it: expected cuts.000000.jsonl.gz and recording.000000.tar")
    splits, written = [], Written(out)
    named = {"-".join(folder.relative_to(root).parts) or root.name: folder for folder in folders}
    written.claim(f"{name}.jsonl.gz" for name in named)
    for name, folder in named.items():
        shards = sorted(folder.glob("cuts.*.jsonl.gz"))
        utterances, seconds = write_cuts(_cuts(shards, jobs, name), out / f"{name}.jsonl.gz")
        written.note(f"{name}.jsonl.gz")
        splits.append((name, len(shards), utterances, seconds / 3600))
    return SharPrepared(out=out, splits=tuple(splits))


def _cuts(shards: list[Path], jobs: int, name: str) -> Iterator[Cut]:
    def read(listed: Path) -> list[Cut]:
        tar = listed.with_name(listed.name.replace("cuts.", "recording.", 1).replace(".jsonl.gz", ".tar"))
        return list(located_cuts(listed, tar, str(tar)))

    shown = tqdm(total=len(shards), desc=name, unit="shard", disable=None)
    with ThreadPoolExecutor(jobs) as pool:
        for start in range(0, len(shards), jobs):  # all the cuts of a corpus do not fit in memory
            for cuts in pool.map(read, shards[start : start + jobs]):
                yield from cuts
                shown.update()
    shown.close()
