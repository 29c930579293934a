"""Scores of one model as its model card states them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distill.checkpoints import MeasuredScore
from distill.downstream.features import load_upstream
from distill.downstream.paper import condition_order, size_of_test
from distill.downstream.results import METRICS, Result, read_results
from distill.downstream.table_cells import choose_seeds, make_cell
from distill.downstream.table_choices import choose_lr
from distill.downstream.table_notes import Notes, is_distorted, mixed
from distill.downstream.tasks import TASKS
from distill.errors import UserError

logger = logging.getLogger(__name__)

_DATASETS = {
    "speech_commands": ("Speech Commands v1", "google/speech_commands"),
    "fluent_commands": ("Fluent Speech Commands", "fluent_speech_commands"),
    "iemocap": ("IEMOCAP", "iemocap"),
    "librispeech": ("LibriSpeech", "openslr/librispeech_asr"),
    "slurp": ("SLURP", "slurp"),
    "chime3": ("CHiME-3", "chime3"),
}
"""Name and id of the test sets; those that their owners have put on the hub have the id there."""


def read_card_scores(folders: Sequence[Path], checkpoint: str | Path) -> list[MeasuredScore]:
    """Scores of a model, each the mean over the seeds of its heads, and of folds.

    Args:
        folders: outputs of `distill evaluate` or `distill sweep`; results of other models are left out.
        checkpoint: the model. It may be in another format than the one that was evaluated.

    Raises:
        CheckpointError: if it cannot be loaded.
        UserError: if a folder does not exist, nothing in them is of this model, heads were trained with
            several learning rates of which none can be chosen, or seeds differ in more than the seed.
    """
    encoder_hash = load_upstream(checkpoint).checkpoint_hash
    results = [result for result in read_results(folders) if result.checkpoint_hash == encoder_hash]
    if not results:
        raise UserError(
            f"{', '.join(map(str, folders))}: no result is of {checkpoint}: name what `distill evaluate` "
            "wrote for this checkpoint"
        )
    return make_card_scores(results)


def make_card_scores(results: Iterable[Result]) -> list[MeasuredScore]:
    """`read_card_scores` of results of one model that are read already.

    Raises:
        UserError: as there.
    """
    heads: dict[tuple[object, ...], list[Result]] = defaultdict(list)
    for result in results:
        key = (result.task, result.metric, result.features, result.lm, result.protocol)
        heads[key].append(result)
    scores = []
    for _, seeds in sorted(heads.items(), key=lambda item: str(item[0])):
        chosen = choose_lr(seeds, seeds[0].task, Notes())
        conditions: dict[tuple[str, str], list[Result]] = defaultdict(list)
        for result in chosen:
            variant = result.variant if is_distorted(result.condition) else ""
            conditions[result.condition, variant].append(result)
        scores += [_score(conditions[key]) for key in sorted(conditions, key=_order)]
    return scores


def _order(key: tuple[str, str]) -> tuple[tuple[int, str, float, str], str]:
    """As the columns of tables, then by variant."""
    return condition_order(key[0]), key[1]


def _score(results: Sequence[Result]) -> MeasuredScore:
    """Of results that differ in seed and fold only."""
    notes = Notes()
    counted = choose_seeds(results, results[0].task, results[0].condition, notes)
    results = [result for folds in counted.values() for result in folds]
    first = results[0]
    if found := mixed(results):
        raise UserError(
            f"{first.task}, {first.condition}: {'; '.join(found)}: a model card has one score of them, so "
            "name the folders of one setup"
        )
    for line in notes.lines():
        logger.warning(line)
    classified = first.metric in ("accuracy", "f1")
    dataset, dataset_type = _dataset(results)
    cell = make_cell(results, "", first.task, first.condition, Notes())
    assert cell.mean is not None
    return MeasuredScore(
        task=TASKS[first.task].title if first.task in TASKS else first.task,
        task_type="audio-classification" if classified else "automatic-speech-recognition",
        dataset=dataset,
        dataset_type=dataset_type,
        condition=first.condition,
        metric=first.metric,
        metric_name=METRICS[first.metric],
        value=cell.mean,
        column=_column(first),
        settings=_settings(results),
    )


def _column(result: Result) -> str:
    """Task and metric, and what is not as usual."""
    unusual = {
        result.features: result.features != "last",
        "with language model": result.lm,
        f"protocol {result.protocol}": result.protocol != "paper",
        f"distortions {result.variant}": is_distorted(result.condition) and result.variant != "paper",
    }
    return ", ".join([f"{result.task} {result.metric} %", *(text for text, true in unusual.items() if true)])


def _settings(results: Sequence[Result]) -> dict[str, Any]:
    first = results[0]
    settings: dict[str, Any] = {
        "features": first.features,
        "language_model": first.lm,
        "protocol": first.protocol,
        "head_steps": first.head_steps,
        "seeds": sorted({result.seed for result in results}),
    }
    if folds := sorted({result.fold for result in results if result.fold is not None}):
        settings["folds"] = folds
    if is_distorted(first.condition):
        settings["distortions"] = first.variant
    return settings


def _dataset(results: Sequence[Result]) -> tuple[str, str]:
    """Name and id of the test set: the published one only if it has as many utterances as that."""
    first = results[0]
    corpus = TASKS[first.task].corpus if first.task in TASKS else ""
    corpus = "chime3" if first.condition.startswith("chime3") else corpus
    published = all(
        result.n_utterances == size_of_test(result.task, result.condition, result.fold) for result in results
    )
    if published and corpus in _DATASETS:
        return _DATASETS[corpus]
    sizes = sorted({result.n_utterances for result in results})
    return f"a test set of {' or '.join(map(str, sizes))} utterances, not the published one", "other"
