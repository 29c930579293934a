"""Distil HuBERT into a small speech model that keeps working in noise.

The public names below are imported when first used, so that `import distill` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
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

try:
    __version__ = version("robust-distilhubert")
except PackageNotFoundError:  # run from a source folder that is not installed
    __version__ = "unknown"


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")
