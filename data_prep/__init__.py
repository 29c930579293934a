"""From corpora on disk to lhotse manifests: one module per corpus, chosen by name from `CORPORA`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill.errors import UsageError


# Each function imports its module when called: `import data_prep` stays free of lhotse.
def _mini(root: Path | None, out: Path, **options: Any) -> Path:
    from data_prep import mini

    mini.prepare(out, **options)  # synthetic: there is nothing to read below root
    return out


def _folder(root: Path | None, out: Path, **options: Any) -> Any:
    from data_prep import folder

    if root is None:
        raise UsageError("corpus folder: say where the audio is with --root FOLDER")
    return folder.prepare(root, out, **options)


CORPORA: dict[str, Callable[..., Any]] = {"mini": _mini, "folder": _folder}
"""Corpus name -> `prepare(root, out, **options)`, with the options of the module's own `prepare`.

The result says what was made, for the command line to print.
"""
