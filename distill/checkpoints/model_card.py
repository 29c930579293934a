"""The README.md of an exported Hugging Face folder: what the model is, data, recipe, scores, provenance."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill import markdown
from distill.checkpoints import files
from distill.checkpoints.card_metadata import MeasuredScore, front_matter
from distill.checkpoints.paths import without_absolute_paths
from distill.errors import CheckpointError
from distill.hubert import HubertConfig
from distill.waveforms import SAMPLE_RATE

Scores = Mapping[str, Mapping[str, float]]
"""Test condition -> task -> score, such as {"clean": {"KS": 95.9}, "fsd": {"KS": 93.1}}."""

_SECTIONS = ("distortion", "student", "encoder", "optim", "dat", "targets", "masking")
"""Parts of a recipe that say how the model was trained; the others are about machines and logs."""
_LONGEST = 2000
"""Letters of a text from a checkpoint or recipe; a description may be a paragraph."""
_HIGHEST = 1e6
"""A score; those in per cent, of any task, are far below."""
_NO_RECIPE = "Not known: exported without the recipe of its run."
_UNTRAINED = "None: this is the teacher as it was published, nothing was trained."


def read_scores(path: str | Path) -> Scores:
    """The scores in a JSON file, laid out as `Scores`.

    Raises:
        CheckpointError: if it is unreadable or laid out otherwise.
    """
    scores = files.read_json(Path(path))
    for row in scores.values():
        if not isinstance(row, dict) or not all(map(_is_score, row.values())):
            raise CheckpointError(
                f'{path} holds something else than scores, expected {{"clean": {{"KS": 95.9}}, ...}}: '
                "condition, task, number"
            )
    return scores


def _is_score(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _HIGHEST  # NaN is not


def model_card(
    config: HubertConfig,
    n_parameters: int,
    *,
    provenance: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    scores: Scores | Sequence[MeasuredScore] | None = None,
    license: str | None = None,
) -> str:
    """The text of the card, Markdown with the front matter that the hub reads.

    Args:
        config: of the encoder.
        n_parameters: of the encoder.
        provenance: plain values; its `teacher_hub_id` becomes the `base_model`.
        recipe: the resolved recipe of the run; of both, absolute paths are left out.
        scores: see `Scores`; a task that a condition lacks is left empty. Measured ones are in the front
            matter, too: of others the metric is not known.
        license: as the hub calls it; None: not stated.
    """
    data = _data(recipe or {})
    origin, run = (without_absolute_paths(dict(values or {})) for values in (provenance, recipe))
    name = markdown.shortened(run.get("name") or origin.get("recipe") or "HuBERT", _LONGEST)
    measured = () if scores is None or isinstance(scores, Mapping) else scores
    parts = [
        front_matter(name, origin, recipe or {}, measured, license=license),
        f"# {markdown.escape(name)}",
        markdown.paragraph(markdown.shortened(run.get("description") or "", _LONGEST)),
        _changes(origin),
        _what(config, n_parameters),
        _usage(config),
        "## Training data",
        data,
        "## Recipe",
        _recipe(run),
        "## Scores",
        _scores(scores if isinstance(scores, Mapping) else _by_condition(measured)),
        "## Provenance",
        _bullets(_not_said_yet(origin, run)) or "Not known.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _changes(origin: Mapping[str, Any]) -> str:
    """How the recipe differs from the one that ships under its name; the description may be of that one."""
    changes = origin.get("recipe_changes")
    if not isinstance(changes, list) or not changes:
        return ""
    text = f"Not {origin.get('recipe')} as it ships: {'; '.join(map(str, changes))}."
    return markdown.paragraph(markdown.shortened(text, _LONGEST))


def _not_said_yet(origin: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance without what stands above it."""
    above = ("recipe_changes", "recipe_settings") if run else ("recipe_changes",)
    return {key: value for key, value in origin.items() if key not in above}


def _what(config: HubertConfig, n_parameters: int) -> str:
    kind = "teacher" if config.projection_norm else "student"
    return (
        f"A {config.model_name} encoder ({kind}): {config.layers} transformer layers of {config.dim} "
        f"features, {n_parameters / 1e6:.1f} M parameters, 16 kHz speech in, a frame every "
        f"{1000 * config.hop / SAMPLE_RATE:g} ms out."
    )


def _usage(config: HubertConfig) -> str:
    waves = "(batch, samples) at 16 kHz"
    if config.normalize_input:
        waves += ", each of zero mean and unit variance"
    name = "WavLMModel" if config.relative_buckets else "HubertModel"
    code = f"""```python
from transformers import {name}

model = {name}.from_pretrained("...").eval()
features = model(waveforms).last_hidden_state  # waveforms: {waves}
```"""
    notes = []
    if config.conv_norm == "group":
        notes.append("transformers does not mask the group norm of such models: give it equal lengths.")
    if not config.projection_norm:
        notes.append(
            "The int8 file of an ONNX export quantises activations with one scale for the entire batch: run "
            "it with one utterance at a time for results that can be repeated."
        )
    return "\n\n".join([code, *notes])


def _data(recipe: Mapping[str, Any]) -> str:
    data = _section(recipe, "data")
    if not data:
        return _NO_RECIPE
    if recipe.get("kind") == "teacher":
        return _UNTRAINED
    root = str(data.get("root") or "").rstrip("/")
    facts = {
        "speech": _sources(data.get("train"), root),
        "speech for choosing the checkpoint": _sources(data.get("dev"), root),
    }
    if _distorted(recipe):
        drawn = _section(recipe, "distortion").get("additive")  # other corpora are never read
        for corpus, sources in _section(data, "noises").items():
            if not isinstance(drawn, list | tuple) or corpus in drawn:
                facts[f"noise, {corpus}"] = _sources(sources, root)
    return _bullets({key: value for key, value in facts.items() if value})


def _sources(sources: Any, root: str) -> str:
    """Their paths below the data folder; where that lies is left out."""
    texts = map(str, sources) if isinstance(sources, list | tuple) else ()
    return ", ".join(
        without_absolute_paths(text.removeprefix(f"{root}/") if root else text) for text in texts
    )


def _recipe(recipe: Mapping[str, Any]) -> str:
    """What training did: not the options of what was switched off, nor those that are not set."""
    if not recipe:
        return _NO_RECIPE
    if recipe.get("kind") == "teacher":
        return _UNTRAINED
    data = _section(recipe, "data")
    batch = "batch_size" if data.get("batch_seconds") is None else "batch_seconds"
    facts = {key: recipe.get(key) for key in ("cdm", "distort", "cosine_weight", "seed")}
    facts |= {f"data.{key}": data.get(key) for key in (batch, "max_samples")}
    for name in _SECTIONS:
        values = _section(recipe, name)
        if name == "distortion" and not _distorted(recipe):
            continue
        if values.get("enabled") is False:
            values = {"enabled": False}
        if values.get("features") == "mfcc":  # targets of no layer
            values = {key: value for key, value in values.items() if key != "layer"}
        facts |= {f"{name}.{key}": value for key, value in values.items()}
    facts |= _objective(_section(recipe, "objective"))
    return _bullets({key: value for key, value in facts.items() if value is not None})


def _objective(section: Mapping[str, Any]) -> dict[str, Any]:
    """The terms that were on beside Eq. 2, and its own weight if there were any."""
    facts: dict[str, Any] = {}
    for name in section:
        values = _section(section, name)
        if values.get("weight"):
            facts |= {f"objective.{name}.{key}": value for key, value in values.items()}
    facts |= {"objective.input": section["input"]} if section.get("input") else {}
    return facts | {"objective.regression": section.get("regression")} if facts else {}


def _distorted(recipe: Mapping[str, Any]) -> bool:
    """Whether training distorted speech: `cdm` says so for students, `distort` for teachers."""
    return recipe.get("cdm") != "none" and recipe.get("distort") is not False


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = values.get(name)
    return section if isinstance(section, Mapping) else {}


def _by_condition(measured: Sequence[MeasuredScore]) -> Scores:
    scores: dict[str, dict[str, float]] = defaultdict(dict)
    for score in measured:
        scores[score.condition][score.column] = round(score.value, 2)
    return scores


def _scores(scores: Scores) -> str:
    if not scores:
        return "None given."
    tasks = list(dict.fromkeys(task for row in scores.values() for task in row))
    rows = [
        [condition, *(f"{row[task]:g}" if task in row else "" for task in tasks)]
        for condition, row in scores.items()
    ]
    return markdown.table(["condition", *tasks], rows)


def _bullets(facts: Mapping[str, Any]) -> str:
    lines = []
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, default=str)
        lines.append(f"* {markdown.paragraph(markdown.shortened(f'{key}: {text}', _LONGEST))}")
    return "\n".join(lines)
