"""Utterances that could not be labelled: listed, judged, and tried again."""

from __future__ import annotations

import contextlib
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from distill.atomic import write_text
from distill.errors import DataError

logger = logging.getLogger(__name__)

FILE = "skipped.tsv"


def list_skipped(folder: Path, shards: Sequence[str]) -> list[str]:
    """Write down what shards of labels had to leave out; returns the ids."""
    lines: list[str] = []
    with contextlib.suppress(OSError, EOFError, ValueError, zipfile.BadZipFile):  # damaged: said later
        lines = [line for name in shards for line in _skipped_in(folder / name)]
    if lines:
        write_text(folder / FILE, "".join(f"{line}\n" for line in lines))
    else:
        (folder / FILE).unlink(missing_ok=True)
    return [line.partition("\t")[0] for line in lines]


def judge_skipped(folder: Path, n_skipped: int, n_utterances: int, max_bad_fraction: float) -> None:
    """Say how many utterances were left out.

    Raises:
        DataError: if they are more than that share.
    """
    if not n_skipped:
        return
    listed = folder / FILE
    count = f"{n_skipped} of {n_utterances} utterances cannot be used and have no labels"
    if n_skipped > max_bad_fraction * n_utterances:
        raise DataError(
            f"{count}, more than max_bad_fraction={max_bad_fraction:g} allows: {listed} lists them. Mend "
            "them and run again, or raise the limit"
        )
    logger.warning("%s: %s lists them; mended, they are labelled when this is run again", count, listed)


def forget_skipped(folder: Path) -> None:
    """Take away shards that had to leave something out: it may have been mended since."""
    if not (folder / FILE).exists():
        return
    for path in folder.glob("labels-*.npz"):
        with contextlib.suppress(OSError, EOFError, ValueError, zipfile.BadZipFile):
            if _skipped_in(path):
                (folder / "targets.json").unlink(missing_ok=True)
                path.unlink()


def _skipped_in(path: Path) -> list[str]:
    """Lines of id and reason of the utterances that a shard of labels had to leave out."""
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["skipped"].tolist() if "skipped" in arrays else []
