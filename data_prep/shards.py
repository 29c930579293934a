"""Cuts and their audio as Shar shards: large files read from end to end, on disk or in object storage."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from importlib.util import find_spec
from pathlib import Path

from lhotse import CutSet
from lhotse.audio import AudioLoadingError, DurationMismatchError
from lhotse.cut import Cut
from lhotse.shar import SharWriter
from lhotse.utils import is_valid_url
from tqdm import tqdm

from distill.errors import DataError, UserError

logger = logging.getLogger(__name__)

SHARD_SIZE = 1000
"""Utterances in a shard."""


def check_destination(destination: str) -> None:
    """Fail before any work where shards could not be written.

    Raises:
        UserError: for a URL, if smart_open is not installed.
    """
    if is_valid_url(destination) and find_spec("smart_open") is None:
        raise UserError(
            f"shards to {destination}: smart_open, which writes to object storage, is not installed: "
            'pip install "robust-distilhubert[shards]"'
        )


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

    In a local folder, shards that have gone are written again, and leftovers of a larger corpus removed.

    lhotse's `to_shar(num_jobs=...)` writes the same files but cannot go on where it was stopped.

    Args:
        manifest: of cuts.
        folder: path, or URL that smart_open can write to.
        n_cuts: in the manifest.
        jobs: threads; decoding and encoding run outside Python's lock.
        done: numbers of shards that are there already.
        finished: called with the number of each shard once it is complete.

    Raises:
        DataError: a shard cannot be written.
    """
    n_shards = -(-n_cuts // SHARD_SIZE)
    if not is_valid_url(folder):
        done = _tidy(Path(folder), done, n_shards)
    bar = tqdm(
        total=n_shards, initial=len(done), desc=f"shards of {manifest.name}", unit="shard", disable=None
    )
    pool = ThreadPoolExecutor(jobs)
    running: dict[Future[None], int] = {}
    try:
        for index, cuts in _batches(manifest):
            if index in done:
                continue
            running[pool.submit(_write_shard, cuts, folder, index)] = index
            _collect(running, finished, bar, at_most=jobs)  # a whole corpus of cuts does not fit in memory
        _collect(running, finished, bar, at_most=0)
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()


def _tidy(folder: Path, done: Collection[int], n_shards: int) -> Collection[int]:
    """Make the folder, or remove what would be read as a part of the corpus; the shards that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    there = set()
    for path in [*folder.glob("cuts.*.jsonl.gz"), *folder.glob("recording.*.tar")]:
        number = path.name.split(".")[1]
        if number.isdigit() and int(number) >= n_shards:
            path.unlink()
        elif number.isdigit() and path.name.startswith("cuts."):
            there.add(int(number))
    return there.intersection(done)


def _batches(manifest: Path) -> Iterator[tuple[int, list[Cut]]]:
    cuts = iter(CutSet.from_jsonl_lazy(manifest))
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


def _write_shard(cuts: list[Cut], folder: str, index: int) -> None:
    try:
        with SharWriter(
            folder, fields={"recording": "flac"}, shard_size=None, shard_suffix=f".{index:06d}"
        ) as writer:
            for cut in cuts:
                try:
                    writer.write(cut)  # decodes before it writes anything
                except (AudioLoadingError, DurationMismatchError) as error:
                    # Training skips such a file as well; the header alone did not show it.
                    logger.warning("left %s out of the shards: %s", cut.id, str(error).splitlines()[0])
    except Exception as error:  # noqa: BLE001 disks and object stores each have exceptions of their own
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{folder}: shard {index} cannot be written ({reason})") from error
