"""What `distill adapt targets` can be asked for; the command line is made from the fields below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class TargetsOptions:
    """One call of `distill adapt targets`; None stands for the recipe's value, or the default."""

    source: str = field(
        metadata={"help": "a recipe, or speech: a manifest, TSV or folder of audio", "positional": True}
    )
    overrides: Sequence[str] = field(
        default=(), metadata={"help": "changes to the recipe", "positional": True, "metavar": "key=value"}
    )
    out: Path = field(metadata={"help": "folder for labels and codebook"})
    features: Literal["mfcc", "layer"] | None = field(
        default=None, metadata={"help": "what is clustered (the recipe's; mfcc)"}
    )
    layer: int | None = field(
        default=None, metadata={"help": "which layer of the teacher; implies --features layer"}
    )
    clusters: int | None = field(default=None, metadata={"help": "k of k-means"})
    teacher: str | None = field(
        default=None, metadata={"help": "checkpoint, run folder or hub id whose layer is clustered"}
    )
    codebook: str | None = field(
        default=None,
        metadata={"help": "cluster centres to use: .npy, fairseq's joblib file, a folder of targets"},
    )
    sample_hours: float | None = field(
        default=None, metadata={"help": "hours that the k-means is fitted on, at most (100)"}
    )
    seed: int | None = field(default=None, metadata={"help": "of the k-means"})
    jobs: int | None = field(default=None, metadata={"help": "processes (one for each core, or GPU)"})
    max_bad_fraction: float | None = field(
        default=None, metadata={"help": "share of utterances that may be unusable (the recipe's; 0.01)"}
    )
    export_fairseq: Path | None = field(
        default=None, metadata={"help": "write .tsv, .km and dict.km.txt", "metavar": "DIR"}
    )
    manifests: bool = field(default=False, metadata={"help": "write lhotse manifests with the labels"})
