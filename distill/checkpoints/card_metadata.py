"""The front matter of a model card: what the Hugging Face hub indexes, shows and filters by.

Its fields: https://huggingface.co/docs/hub/model-cards. Only what is known is stated: from the provenance,
the recipe, the user, and measured scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

_TAGS = ("hubert", "speech", "robust-distilhubert")
_HUB_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
"""What a checkpoint of somebody else calls its teacher goes into the card only if the hub could have it."""
_HUB_DATASETS = {"librispeech": "openslr/librispeech_asr"}
"""Ids of corpora whose owner has put them on the hub, by the folder that `distill data prepare` fills."""


@dataclass(frozen=True, kw_only=True)
class MeasuredScore:
    """A score of the exported model, for the card's `model-index` and its table."""

    task: str
    """For people, such as "keyword spotting"."""
    task_type: str
    """A task of the hub: audio-classification, automatic-speech-recognition."""
    dataset: str
    """The test set, for people."""
    dataset_type: str
    """Its id on the hub, or a name of the same form."""
    condition: str
    """clean, 2-dist, fsd, ..."""
    metric: str
    """accuracy, f1, wer, per."""
    metric_name: str
    """The same for people, with its unit."""
    value: float
    """In the unit of `metric_name`."""
    column: str
    """Of the card's table."""
    settings: dict[str, Any] = field(default_factory=dict)
    """How it was measured, plain values."""


def front_matter(
    name: str,
    provenance: Mapping[str, Any],
    recipe: Mapping[str, Any],
    measured: Sequence[MeasuredScore] = (),
    *,
    license: str | None = None,
) -> str:
    """The YAML block at the beginning of a card, with the lines of dashes around it.

    Args:
        name: of the model.
        provenance: its `teacher_hub_id` is the `base_model`.
        recipe: resolved; its kind and training speech decide tags and datasets.
        measured: for `model-index`.
        license: as the hub calls it, such as "apache-2.0"; None: not stated.
    """
    import yaml

    values: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "feature-extraction"}
    if license is not None:
        values["license"] = license
    hub_id = provenance.get("teacher_hub_id")  # `teacher` alone may be a path that looks like an id
    if isinstance(hub_id, str) and _HUB_ID.fullmatch(hub_id):
        values["base_model"] = hub_id
    if datasets := _datasets(recipe):
        values["datasets"] = datasets
    values["tags"] = [*_TAGS, *(["knowledge-distillation"] if recipe.get("kind") == "distil" else [])]
    if measured:
        values["metrics"] = sorted({score.metric for score in measured})
        values["model-index"] = [{"name": name, "results": list(_results(measured))}]
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=float("inf"))
    return f"---\n{text}---"


def _datasets(recipe: Mapping[str, Any]) -> list[str]:
    """Of the training speech, as far as the hub has them; a published teacher was not trained here."""
    data = recipe.get("data")
    sources = data.get("train") if isinstance(data, Mapping) and recipe.get("kind") != "teacher" else None
    sources = sources if isinstance(sources, list | tuple) else ()
    parts = {part for source in sources for part in PurePath(str(source)).parts}
    return [hub_id for corpus, hub_id in _HUB_DATASETS.items() if corpus in parts]


def _results(measured: Iterable[MeasuredScore]) -> Iterable[dict[str, Any]]:
    """One result each: the hub merges those of the same task, dataset and `config`, the condition here."""
    for score in measured:
        dataset = {"name": f"{score.dataset}, {score.condition}", "type": score.dataset_type}
        yield {
            "task": {"type": score.task_type, "name": score.task},
            "dataset": dataset | {"config": score.condition, "split": "test"},
            "metrics": [
                {
                    "type": score.metric,
                    "value": round(score.value, 2),
                    "name": f"{score.task}, {score.metric_name}",
                    "args": score.settings,
                }
            ],
        }
