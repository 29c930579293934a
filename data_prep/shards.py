"""Writing cuts and their audio as Shar shards: large tar files, on disk or in object storage."""

from __future__ import annotations

import itertools
import logging
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lhotse.audio import AudioLoadingError
from lhotse.cut import Cut
from lhotse.shar import SharWriter
from tqdm import tqdm

from distill.atomic import atomic
from distill.data.audio import reason
from distill.data.lines import CutLines
from distill.data.opening import opened_here
from distill.data.shar import located_cuts
from distill.data.stores import check_place, is_url
from distill.data_prep.manifests import write_cuts
from distill.errors import DataError, UserError, first_line
from distill.hashing import hash_text

logger = logging.getLogger(__name__)

SHARD_SIZE = 1000
"""Utterances in a shard."""


def check_destination(destination: str) -> None:
    """Fail before any work where shards could not be written.

    Raises:
        UserError: for a URL of anything but an object store, or if smart_open is not installed.
    """
    check_place(destination)
    if is_url(destination) and find_spec("smart_open") is None:
        raise UserError(
            f"shards to {destination}: smart_open, which writes to object storage, is not installed: "
            'pip install "robust-distilhubert[shards]"'
        )


def manifest_of_shards(manifest: Path) -> Path:
    """`SPLIT.jsonl.gz` or `SPLIT.jsonl` -> `SPLIT.shards.jsonl.gz`: the same cuts, with audio in shards.

    Raises:
        ValueError: it is named otherwise.
    """
    name = manifest.name.removesuffix(".gz").removesuffix(".jsonl")
    if manifest.name not in (f"{name}.jsonl", f"{name}.jsonl.gz"):
        raise ValueError(f"manifest: must be named *.jsonl.gz or *.jsonl, not {manifest.name}")
    return manifest.with_name(f"{name}.shards.jsonl.gz")


def holds_shards(folder: str) -> bool:
    """Whether a folder on this machine has shards in it."""
    patterns = ("cuts.*.jsonl.gz", "recording.*.tar")
    if is_url(folder):
        return False
    return any(path.is_file() for pattern in patterns for path in Path(folder).glob(pattern))


def write_shards(
    manifest: Path,
    folder: str,
    *,
    n_cuts: int,
    jobs: int,
    done: Collection[int],
    finished: Callable[[int], None],
) -> None:
    """Write `folder/cuts.000000.jsonl.gz` and `folder/recording.000000.tar` (16 kHz mono FLAC), and so on.

    Next to the manifest, that of the shards (`manifest_of_shards`) is written. It says where in them each
    utterance is, so that training reads them in any order. In a local folder, missing shards are written
    again, and leftovers of a larger corpus removed.

    lhotse's `to_shar(num_jobs=...)` writes the same shards, but starts again after an interruption.

    Args:
        manifest: of cuts.
        folder: path, or URL that smart_open can write to.
        n_cuts: in the manifest.
        jobs: threads; decoding and encoding run outside Python's lock.
        done: numbers of shards that were written before.
        finished: called with the number of each shard once it is complete.

    Raises:
        DataError: a shard cannot be written.
    """
    n_shards, shards_manifest = -(-n_cuts // SHARD_SIZE), manifest_of_shards(manifest)
    if not is_url(folder):
        folder = str(Path(folder).absolute())  # for the manifest
        done = _tidy(Path(folder), done, n_shards)
    parts = _parts(manifest, folder)
    parts.mkdir(parents=True, exist_ok=True)
    done = {index for index in done if _part(parts, index).exists()}
    bar = tqdm(
        total=n_shards, initial=len(done), desc=f"shards of {manifest.name}", unit="shard", disable=None
    )
    pool = ThreadPoolExecutor(jobs)
    running: dict[Future[None], int] = {}
    try:
        for index, cuts in _batches(manifest):
            if index in done:
                continue
            running[pool.submit(_write_shard, cuts, folder, index, _part(parts, index))] = index
            _collect(running, finished, bar, at_most=jobs)  # all cuts of a corpus do not fit in memory
        _collect(running, finished, bar, at_most=0)
        _join([_part(parts, index) for index in range(n_shards)], shards_manifest)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def _tidy(folder: Path, done: Collection[int], n_shards: int) -> Collection[int]:
    """Make the folder, or remove shards beyond the last; return which of the shards that are done exist."""
    folder.mkdir(parents=True, exist_ok=True)
    existing = set()
    for path in [*folder.glob("cuts.*.jsonl.gz"), *folder.glob("recording.*.tar")]:
        number = path.name.split(".")[1]
        if number.isdigit() and int(number) >= n_shards:
            path.unlink()
        elif number.isdigit() and path.name.startswith("cuts."):
            existing.add(int(number))
    return existing.intersection(done)


def _batches(manifest: Path) -> Iterator[tuple[int, list[Cut]]]:
    cuts = iter(CutLines(manifest))
    for index in itertools.count():
        batch = list(itertools.islice(cuts, SHARD_SIZE))
        if not batch:
            return
        yield index, batch


def _collect(
    running: dict[Future[None], int], finished: Callable[[int], None], bar: tqdm, *, at_most: int
) -> None:
    """Wait until no more than `at_most` shards are being written."""
    while len(running) > at_most:
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            future.result()
            finished(running.pop(future))
            bar.update()


def _parts(manifest: Path, folder: str) -> Path:
    """Where the manifests of single shards are kept, so that one of them can be written again."""
    name = manifest.name.removesuffix(".jsonl.gz")
    return manifest.parent / ".shards" / f"{name}-{hash_text(folder, digest_size=4)}"


def _part(parts: Path, index: int) -> Path:
    return parts / f"{index:06d}.jsonl.gz"


def _join(parts: Sequence[Path], manifest: Path) -> None:
    """One gzip file of several: their bytes, one after the other."""
    if manifest.exists() and _is_joined(parts, manifest):
        return  # not written again: its index stays good
    with atomic(manifest) as temporary, temporary.open("wb") as joined:
        for part in parts:
            joined.write(part.read_bytes())


def _is_joined(parts: Sequence[Path], manifest: Path) -> bool:
    with manifest.open("rb") as joined:
        same = all(joined.read(len(content)) == content for content in map(Path.read_bytes, parts))
        return same and not joined.read(1)


def _write_shard(cuts: list[Cut], folder: str, index: int, part: Path) -> None:
    """Write one shard, and `part`, the manifest of its cuts: made on this machine, then moved to `folder`."""
    parent = None if is_url(folder) else Path(folder).parent
    names = [
        f"recording.{index:06d}.tar",
        f"cuts.{index:06d}.jsonl.gz",
    ]  # cuts last: they mark it complete
    try:
        with TemporaryDirectory(prefix=".shard-", dir=parent) as made:
            _write_cuts(cuts, made, index)
            tar, listed = (Path(made, name) for name in names)
            if listed.exists():
                write_cuts(located_cuts(listed, tar, f"{folder}/{names[0]}"), part)
                for name in names:
                    _move(Path(made, name), f"{folder}/{name}")
            else:  # not one utterance can be read
                write_cuts([], part)
    except Exception as error:  # noqa: BLE001 disks and object stores each have exceptions of their own
        raise DataError(f"{folder}: shard {index} cannot be written ({first_line(error)})") from error


def _write_cuts(cuts: list[Cut], folder: str, index: int) -> None:
    with SharWriter(
        folder, fields={"recording": "flac"}, shard_size=None, shard_suffix=f".{index:06d}"
    ) as writer:
        for cut in cuts:
            try:
                writer.write(opened_here(cut))  # decodes before it writes anything
            except (AudioLoadingError, DataError) as error:
                # Training skips such a file as well; the header alone did not show it.
                logger.warning("left %s out of the shards: %s", cut.id, reason(error))


def _move(made: Path, place: str) -> None:
    if not is_url(place):
        made.replace(place)
        return
    import smart_open

    stream: Any = smart_open.open(place, "wb")
    with made.open("rb") as source, stream:
        shutil.copyfileobj(source, stream)
