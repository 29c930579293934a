"""Distil HuBERT into a small speech model that keeps working in noise.

The public names below are imported when first used, so that `import distill` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.checkpoints import load_student, load_teacher
    from distill.distortions import Distorter
    from distill.objective import distillation_loss
    from distill.student import Student

__all__ = ["Distorter", "Student", "distillation_loss", "load_student", "load_teacher"]

_HOMES = {
    "Distorter": "distill.distortions",
    "Student": "distill.student",
    "distillation_loss": "distill.objective",
    "load_student": "distill.checkpoints",
    "load_teacher": "distill.checkpoints",
}

# `distill.upstream` and its neighbours are folders at the top of the repository; links lead there in a clone.
# Where links become text files (a zip of the repository, Windows), Python is told where to look.
_here = Path(__file__).parent
if not (_here / "upstream").is_dir() and (_here.parent / "upstream").is_dir():
    __path__.append(str(_here.parent))

try:
    __version__ = version("robust-distilhubert")
except PackageNotFoundError:  # run from a source folder that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")
