"""The pre-training head of the teacher to adapt: taken over when it predicts these very targets.

A head (mask embedding, projection, cluster embeddings) is of use only with the codebook it was trained
with. Whether the targets come from that one is not written anywhere, so it is tried: the head's guesses at
masked frames must be better than always guessing the most frequent cluster.

Shapes: B utterances, T samples, F frames, K clusters, P width of the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.adaptation.masked_prediction import FAIRSEQ_SPECIAL_LABELS, MaskedPrediction
from distill.batch import Batch
from distill.checkpoints import fairseq, files, safe_pickle, split_source, weights
from distill.objective.masking import span_mask
from distill.waveforms import frame_mask

FILE = "head.safetensors"
FRAMES_PER_SPAN = 10  # guesses under one span are not independent of each other


@dataclass(frozen=True)
class Agreement:
    """How a head did on masked frames."""

    correct: int
    """Frames whose cluster was guessed."""
    majority: int
    """Frames of the cluster that was most frequent among them."""
    frames: int
    """Masked frames with a target."""

    @property
    def above_chance(self) -> bool:
        """Whether the head beats always guessing the most frequent cluster, by three standard errors."""
        if not self.frames:
            return False
        chance = self.majority / self.frames
        error = np.sqrt(chance * (1 - chance) * FRAMES_PER_SPAN / self.frames)
        return bool(self.correct / self.frames > chance + 3 * error)


def read_head(source: str) -> dict[str, Tensor] | None:
    """The head that belongs to a teacher: of a fairseq checkpoint, or of a run of `distill adapt`.

    Of a run, the folder, its `teacher.safetensors`, or one of its checkpoints.

    Args:
        source: as for `load_teacher`.

    Returns:
        `mask_emb` (D,), `final_proj.weight` (P, D), `final_proj.bias` (P,) and `label_embs_concat` (K, P)
        or (K + 4, P) with fairseq's special symbols first; None if there is none.

    Raises:
        CheckpointError: if a file is damaged.
    """
    path = Path(split_source(str(source))[0]).expanduser()
    ours = (path if path.is_dir() else path.parent) / FILE
    if (path.is_dir() or path.name == "teacher.safetensors") and ours.is_file():
        tensors = files.read_safetensors(ours)
        weights.check_finite(tensors, ours)
        return tensors
    if not path.is_file() or not safe_pickle.matches(path):
        return None
    contents = safe_pickle.load(path)
    state = contents.get("state_dict") if isinstance(contents, dict) else None
    if isinstance(state, dict) and state.keys() >= _NAMES.keys():  # a checkpoint of a run
        return head_of(state)
    head = fairseq.read_head(path) if fairseq.matches(contents) else None
    if head is not None:
        rows = cluster_rows(contents, len(head["label_embs_concat"]))
        if rows is not None:
            head["label_embs_concat"] = head["label_embs_concat"][rows]
    return head


def cluster_rows(contents: Any, n_rows: int) -> list[int] | None:
    """Which row of the cluster embeddings is cluster 0, 1, ...: the checkpoint's dictionary says.

    Args:
        contents: of a fairseq checkpoint, from `safe_pickle.load`.
        n_rows: of its `label_embs_concat`.

    Returns:
        None if there is no dictionary, or none of that size with the clusters 0 to K - 1.
    """
    state = contents.get("task_state") if isinstance(contents, dict) else None
    dictionaries = state.get("dictionaries") if isinstance(state, dict) else None
    if not isinstance(dictionaries, list) or len(dictionaries) != 1:
        return None
    inner = getattr(dictionaries[0], "state", None)
    symbols = inner.get("symbols") if isinstance(inner, dict) else None
    if not isinstance(symbols, list) or len(symbols) != n_rows:
        return None
    row_of = {str(symbol): row for row, symbol in enumerate(symbols)}
    n_clusters = sum(str(symbol).isdecimal() for symbol in symbols)
    rows = [row_of.get(str(cluster)) for cluster in range(n_clusters)]
    return None if not rows or None in rows else [row for row in rows if row is not None]


def reuse_head(
    module: MaskedPrediction, head: Mapping[str, Tensor], batches: Iterable[Batch], source: str
) -> tuple[bool, str]:
    """Give the module the teacher's head if that predicts these targets; otherwise leave its random one.

    Args:
        module: gets the head.
        head: from `read_head`.
        batches: clean speech with targets, a few dozen utterances.
        source: the checkpoint, for the message.

    Returns:
        Whether the head was taken over, and a line that says so and why.
    """
    rows = len(head["label_embs_concat"])
    if rows - module.n_clusters not in (0, FAIRSEQ_SPECIAL_LABELS):
        return False, (
            f"prediction head started afresh: that of {source} is for {rows} clusters, "
            f"the targets have {module.n_clusters}"
        )
    before = {name: module.get_parameter(name).detach().clone() for name in _NAMES}
    module.load_head(head)
    found = agreement(module, batches)
    share = found.correct / max(found.frames, 1)
    chance = found.majority / max(found.frames, 1)
    figures = (
        f"right on {share:.1%} of {found.frames} masked dev frames, the most frequent cluster on {chance:.1%}"
    )
    if found.above_chance:
        return True, f"prediction head of {source} taken over: {figures}"
    with torch.no_grad():
        for name, value in before.items():
            module.get_parameter(name).copy_(value)
    return False, (
        f"prediction head started afresh: that of {source} does not predict these targets (another "
        f"codebook?): {figures}"
    )


_NAMES = {
    "mask_embedding": "mask_emb",
    "final_proj.weight": "final_proj.weight",
    "final_proj.bias": "final_proj.bias",
    "label_embeddings": "label_embs_concat",
}


def head_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head in the state dict of a `MaskedPrediction` as fairseq has it; what `read_head` reads.

    Returns:
        As `read_head`, (K + 4, P): fairseq's special symbols come first, with zeros, since they label no
        frame.
    """
    head = {theirs: state[ours] for ours, theirs in _NAMES.items()}
    clusters = head["label_embs_concat"]
    special = clusters.new_zeros(FAIRSEQ_SPECIAL_LABELS, clusters.shape[1])
    return head | {"label_embs_concat": torch.cat([special, clusters])}


@torch.no_grad()
def agreement(module: MaskedPrediction, batches: Iterable[Batch]) -> Agreement:
    """Masked accuracy of a module's head on clean speech, under masks such as it will be trained with."""
    config = module.encoder.config
    was_training = module.training
    module.eval()
    counts = np.zeros(module.n_clusters, np.int64)
    correct = 0
    for number, batch in enumerate(batches):
        batch = batch.to(module.device)
        assert batch.targets is not None
        frames = config.frames(batch.lengths)
        mask = span_mask(
            frames,
            probability=module.masking.probability,
            length=module.masking.length,
            generator=torch.Generator().manual_seed(number),
        )
        mask = torch.nn.functional.pad(mask, (0, batch.targets.shape[1] - mask.shape[1])).to(module.device)
        out = module.encoder(batch.waveforms, batch.lengths, mask=mask, mask_embedding=module.mask_embedding)
        chosen = mask & frame_mask(out.lengths, mask.shape[1]) & (batch.targets >= 0)  # (B, F)
        wanted = batch.targets[chosen]
        correct += int((module.logits(out.last_hidden_state)[chosen].argmax(1) == wanted).sum())
        counts += np.bincount(wanted.cpu().numpy(), minlength=module.n_clusters)
    module.train(was_training)
    return Agreement(correct, int(counts.max()), int(counts.sum()))
