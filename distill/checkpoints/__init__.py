"""Read and write checkpoints: one module per format, `safe_pickle` for those that are pickles.

`load_teacher`, `load_student` and `inspect` find out the format by content; `export` writes another one.
"""

from distill.checkpoints.exporting import FORMATS, export
from distill.checkpoints.loading import CheckpointInfo, inspect, load_student, load_teacher

__all__ = ["FORMATS", "CheckpointInfo", "export", "inspect", "load_student", "load_teacher"]
