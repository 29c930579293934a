"""Utterances that could not be labelled: listed, judged, and tried again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from distill.atomic import write_text
from distill.data.arrays import DAMAGED, read_arrays
from distill.errors import DataError

logger = logging.getLogger(__name__)

FILE = "skipped.tsv"


def list_skipped(folder: Path, lines: Sequence[str]) -> None:
    """Write down which utterances were left out, or that none was.

    Args:
        folder: of the targets.
        lines: id and reason of each, separated by a tab.
    """
    if lines:
        write_text(folder / FILE, "".join(f"{line}\n" for line in lines))
    else:
        (folder / FILE).unlink(missing_ok=True)


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
            f"{count}, more than max_bad_fraction={max_bad_fraction:g} allows: {listed} lists them. Repair "
            "them and run again, or raise the limit"
        )
    logger.warning("%s: %s lists them; once repaired, they are labelled by running this again", count, listed)


def forget_skipped(folder: Path) -> None:
    """Remove blocks of labels with utterances that were left out, which are to be tried again."""
    if not (folder / FILE).exists():
        return
    for path in folder.glob("labels-*.npz"):
        with contextlib.suppress(*DAMAGED):  # found later
            if len(read_arrays(path).get("skipped", ())):
                (folder / "targets.json").unlink(missing_ok=True)
                path.unlink()
