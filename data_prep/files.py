"""Where a corpus is below a root."""

from __future__ import annotations

from pathlib import Path


def first_folder(root: Path, *names: str) -> Path | None:
    """The first of `root/name` that is a folder: a root may be the corpus or the folder that holds it."""
    return next((root / name for name in names if (root / name).is_dir()), None)
