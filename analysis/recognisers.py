"""Models that say what was said: ours with a head, and fine-tuned ones of transformers.

Shapes: B utterances, T samples at 16 kHz, F frames, V outputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lhotse.cut import Cut
from torch import Tensor
from typing_extensions import override

from distill.analysis.foreign_models import config_of
from distill.analysis.hf_recognisers import TransformersRecogniser, is_ctc_model
from distill.analysis.models import OurModel
from distill.analysis.recognition import Recognised, Recogniser, character_errors, ctc_losses
from distill.checkpoints import inspect
from distill.checkpoints.huggingface import is_hub_id
from distill.checkpoints.loading import load_any
from distill.downstream.embeddings import short_names
from distill.downstream.features import Selection, hash_encoder, hash_weights
from distill.downstream.head_record import read_head
from distill.downstream.head_run import HeadFolder
from distill.downstream.head_training import HeadTraining, load_best
from distill.downstream.heads import BLANK, UtteranceHead
from distill.downstream.labels import ClassLabels, Labels, TokenLabels, targets_of
from distill.downstream.options import EvaluationConfig
from distill.downstream.result_schema import check
from distill.downstream.tasks import TASKS
from distill.downstream.truths import own_phones
from distill.errors import DamagedFile, DataError, UsageError, UserError
from distill.student import Student
from distill.training.devices import best_device
from distill.waveforms import with_gain

_FOLDER = re.compile(
    rf"(?P<task>{'|'.join(TASKS)})(-fold\d+)?(?P<finetune>-finetune)?"
    r"-(?P<features>last|weighted_sum|layer-\d+)-seed\d+(-.*)?"
)
"""A head's folder, as `EvaluationConfig.head_name` calls it."""


class HeadRecogniser(Recogniser):
    """A model of ours with a head that `distill evaluate` trained.

    Args:
        checkpoint: of the model.
        folder: of the head: `heads/NAME` among the evaluations.
        name: for people.

    Raises:
        UserError: if the head is not finished, is of another model, or its folder has another name.
    """

    def __init__(self, checkpoint: str, folder: Path, name: str):
        record, parts = _read(folder)
        model = load_any(checkpoint)[0]
        encoder = model.encoder if isinstance(model, Student) else model
        if record.get("checkpoint") != hash_encoder(encoder):
            raise UserError(f"{folder} is a head of another model than {checkpoint}: give the one it is of")
        config = EvaluationConfig(task=parts["task"], protocol=record.get("protocol", "paper"))
        task = config.defaults
        self.labels = _labels(record, task.kind, task.label, folder)
        finetune = bool(parts["finetune"])
        module = HeadTraining(
            encoder,
            Selection(parts["features"].replace("layer-", "layer:"), encoder.config.layers),
            self.labels.head(encoder.config.dim, record.get("width")),
            self.labels,
            config.recipe().optim,  # not used
            finetune=finetune,
        )
        load_best(module, folder)  # of a fine-tuned one, also the model
        self.model = OurModel(encoder.to(best_device()), name)
        self.name, self.gain_db = name, task.gain_db
        self.module = module.eval().requires_grad_(False).to(self.model.device)
        metrics = {"classes": ("error",), "characters": ("wer", "cer"), "phones": ("per",)}
        self.metrics = metrics[task.kind]
        about = [self.model.identity, module.selection.layer, self.gain_db, record["labels"]]
        state = {k: v for k, v in module.state_dict().items() if not k.startswith("encoder.")}
        self.identity = hash_weights(state, str(about))

    @override
    def outputs(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        selection = self.module.selection
        layers = self.model.layers[-self.module.encoder.config.layers - 1 :]
        wanted = layers if selection.n_states else (str(selection.layer),)
        found = self.model.activations(with_gain(waveforms, self.gain_db), lengths, wanted)
        states = [found.states[layer] for layer in wanted]
        frames = found.lengths[wanted[-1]]
        selected = selection(torch.stack(states, dim=2) if selection.n_states else states[0])
        # The backward pass of cuDNN's LSTMs exists in training mode only.
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not selected.requires_grad):
            return self.module.head(selected, frames), frames

    @override
    def loss(self, outputs: Tensor, frames: Tensor, cuts: Sequence[Cut]) -> Tensor:
        targets = [self.labels.targets(cut) for cut in cuts]
        head = self.module.head
        if not isinstance(head, UtteranceHead):
            return ctc_losses(outputs, frames, targets, blank=BLANK)
        right = torch.tensor(targets, device=outputs.device)  # (B, S)
        slots = enumerate(outputs.split(head.slots, dim=1))
        losses = [F.cross_entropy(part, right[:, slot], reduction="none") for slot, part in slots]
        return torch.stack(losses).sum(0)

    @override
    def recognise(self, outputs: Tensor, frames: Tensor, cuts: Sequence[Cut]) -> list[Recognised]:
        targets = [self.labels.targets(cut) for cut in cuts]
        found = []
        for each in self.labels.outcomes(self.module.head, outputs, frames, targets):
            errors = {self.metrics[0]: (each.errors, each.total)}
            if "cer" in self.metrics:
                errors["cer"] = character_errors(each.truth, each.prediction)
            found.append(Recognised(errors, each.truth, each.prediction))
        return found

    @override
    def check(self, cuts: Sequence[Cut]) -> None:
        if self.metrics == ("per",) and (lacking := [cut.id for cut in cuts if own_phones(cut) is None]):
            raise DataError(
                f"{lacking[0]} has no phones in its manifest, which the head of {self.name} needs"
            )
        targets_of(self.labels, cuts, self.module.encoder.config.frames, self.name)


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The record of a head, and what the name of its folder says: task, finetune, features."""
    if not (record := read_head(folder)):
        raise UserError(
            f"{folder} is not a head of `distill evaluate`: give a folder such as "
            "evaluations/NAME/heads/ks-last-seed0"
        )
    if not HeadFolder(folder).steps_done:
        raise UserError(f"{folder}: this head's training is not finished: give distill evaluate again")
    if not (parts := _FOLDER.fullmatch(folder.resolve().name)):
        raise UserError(
            f"{folder}: the folder of a head keeps its name, such as ks-last-seed0, which says what it is of"
        )
    return record, parts.groupdict(default="")


def _labels(record: dict[str, Any], kind: str, column: str, folder: Path) -> Labels:
    classes = kind == "classes"
    try:
        labels = check(record.get("labels"), list[list[str]] if classes else list[str], "labels")
    except ValueError as error:
        raise DamagedFile(f"{folder}: the record of this head is damaged ({error}): train it again") from None
    if classes:  # records of earlier versions do not name the column
        return ClassLabels(tuple(map(tuple, labels)), record.get("label") or column)
    return TokenLabels(tuple(labels), kind)


def open_recognisers(sources: Sequence[str]) -> list[Recogniser]:
    """Recognisers.

    Args:
        sources: "CHECKPOINT@HEAD", a model of ours with the folder of a head that `distill evaluate` trained;
            or folder or hub id of a fine-tuned CTC model of transformers.

    Raises:
        UserError: for a model without a head, or a head of another model.
    """
    pairs = [_split(source) for source in sources]
    checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _ in pairs))
    short = dict(zip(checkpoints, short_names(checkpoints), strict=True))
    several = len(checkpoints) < len(pairs)  # heads of one model
    names = [short[model] + (f"@{Path(head).name}" if several and head else "") for model, head in pairs]
    if len(set(names)) < len(names):
        raise UsageError(f"the same recogniser is given twice: {', '.join(sources)}")
    return [_open(*pair, name) for pair, name in zip(pairs, names, strict=True)]


def recognises(source: str) -> bool:
    """Whether a source names a model with a head."""
    return bool(_split(source)[1]) or is_ctc_model(source)


def _split(source: str) -> tuple[str, str]:
    """The checkpoint, and the folder of the head or ""."""
    checkpoint, mark, head = source.rpartition("@")
    return (checkpoint, head) if mark and not Path(source).exists() else (source, "")


def _open(checkpoint: str, head: str, name: str) -> Recogniser:
    if head:
        return HeadRecogniser(checkpoint, Path(head), name)
    if is_ctc_model(checkpoint) or (is_hub_id(checkpoint) and not config_of(checkpoint)):
        return TransformersRecogniser(checkpoint, name)
    inspect(checkpoint)  # says so if there is no such checkpoint
    raise UserError(
        f"{checkpoint} has no head that recognises speech: train one with `distill evaluate asr --student "
        f"{checkpoint}` and give {checkpoint}@EVALUATIONS/heads/asr-last-seed0, or name a fine-tuned CTC "
        "model such as facebook/wav2vec2-base-960h"
    )
