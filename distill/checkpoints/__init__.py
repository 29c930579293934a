"""Read and write checkpoints: one module per format, `safe_pickle` for those that are pickles.

`load_teacher`, `load_student` and `inspect` find out the format by content; `export` writes another one, and
`push` uploads an exported Hugging Face folder.
"""

from distill.checkpoints.card_metadata import MeasuredScore
from distill.checkpoints.exporting import FORMATS, export, export_checkpoint
from distill.checkpoints.huggingface import push
from distill.checkpoints.inspection import CheckpointInfo, inspect
from distill.checkpoints.loading import (
    load_hubert,
    load_student,
    load_teacher,
    split_source,
    teacher_facts,
)
from distill.checkpoints.model_card import read_scores

__all__ = [
    "FORMATS",
    "CheckpointInfo",
    "MeasuredScore",
    "export",
    "export_checkpoint",
    "inspect",
    "load_hubert",
    "load_student",
    "load_teacher",
    "push",
    "read_scores",
    "split_source",
    "teacher_facts",
]
