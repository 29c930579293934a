"""From corpora on disk to lhotse manifests: one module per corpus or small family, chosen by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distill.data_prep.chime3 import CHIME3
from distill.data_prep.corpus import Corpus
from distill.data_prep.fluent_commands import FLUENT_COMMANDS
from distill.data_prep.iemocap import IEMOCAP
from distill.data_prep.librispeech import LIBRISPEECH, MINI_LIBRISPEECH
from distill.data_prep.noises import DNS, FSD50K, MUSAN, WHAM
from distill.data_prep.slurp import SLURP
from distill.data_prep.speech_commands import SPEECH_COMMANDS
from distill.data_prep.timit import TIMIT
from distill.errors import UsageError

PUBLISHED: dict[str, Corpus] = {
    "librispeech": LIBRISPEECH,
    "mini_librispeech": MINI_LIBRISPEECH,
    "musan": MUSAN,
    "wham": WHAM,
    "fsd50k": FSD50K,
    "dns": DNS,
    "chime3": CHIME3,
    "speech_commands": SPEECH_COMMANDS,
    "fluent_commands": FLUENT_COMMANDS,
    "slurp": SLURP,
    "iemocap": IEMOCAP,
    "timit": TIMIT,
}
"""The corpora of the paper and its analysis: splits, figures, layout, source, licence."""


# Each function imports its module when called: `import data_prep` stays free of lhotse.
def _published(name: str, root: Path | None, out: Path, **options: Any) -> Any:
    from distill.data_prep.preparation import prepare

    return prepare(PUBLISHED[name], root, out, **options)


def _mini(root: Path | None, out: Path, **options: Any) -> Path:
    from distill.data_prep import mini

    mini.prepare(out, **options)  # synthetic: there is nothing to read below root
    return out


def _mini_layouts(root: Path | None, out: Path, **options: Any) -> Path:
    from distill.data_prep import mini_layouts

    return mini_layouts.prepare(out, **options)


def _folder(root: Path | None, out: Path, **options: Any) -> Any:
    from distill.data_prep import folder

    if root is None:
        raise UsageError("corpus folder: say where the audio is with --root FOLDER")
    return folder.prepare(root, out, **options)


def _shar(root: Path | None, out: Path, **options: Any) -> Any:
    from distill.data_prep import existing_shards as shar

    if root is None:
        raise UsageError("corpus shar: say where the shards are with --root FOLDER")
    return shar.prepare(root, out, **options)


CORPORA: dict[str, Callable[..., Any]] = {
    **{name: partial(_published, name) for name in PUBLISHED},
    "mini": _mini,
    "mini_layouts": _mini_layouts,
    "folder": _folder,
    "shar": _shar,
}
"""Corpus name -> `prepare(root, out, **options)`, with the options of `preparation.prepare`, or of
the module's own `prepare` for mini, mini_layouts, folder and shar.

The result says what was made, for the command line to print.
"""
