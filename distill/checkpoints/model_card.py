"""The README.md of an exported Hugging Face folder: what the model is, data, recipe, scores, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from distill.checkpoints import weights
from distill.errors import CheckpointError
from distill.hubert import HubertConfig

Scores = Mapping[str, Mapping[str, float]]
"""Test condition -> task -> score, such as {"clean": {"KS": 95.9}, "fsd": {"KS": 93.1}}."""

_SECTIONS = ("distortion", "student", "optim", "dat", "targets", "masking")
"""Parts of a recipe that say how the model was trained; the others are about machines and logs."""


def read_scores(path: str | Path) -> Scores:
    """The scores in a JSON file, laid out as `Scores`.

    Raises:
        CheckpointError: if it is unreadable or laid out otherwise.
    """
    scores = weights.read_json(Path(path))
    for row in scores.values():
        if not isinstance(row, dict) or any(type(value) not in (int, float) for value in row.values()):
            raise CheckpointError(
                f'{path} holds something else than scores, expected {{"clean": {{"KS": 95.9}}, ...}}: '
                "condition, task, number"
            )
    return scores


def model_card(
    config: HubertConfig,
    n_parameters: int,
    *,
    provenance: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    scores: Scores | None = None,
) -> str:
    """The text of the card, Markdown with the front matter that the hub reads.

    Args:
        config: of the encoder.
        n_parameters: of the encoder.
        provenance: plain values.
        recipe: the resolved recipe of the run.
        scores: see `Scores`; a task that a condition lacks is left empty.
    """
    provenance, recipe = provenance or {}, recipe or {}
    name = str(recipe.get("name") or provenance.get("recipe") or "HuBERT")
    parts = [
        _front_matter(provenance),
        f"# {name}",
        str(recipe.get("description") or ""),
        _what(config, n_parameters),
        _usage(config),
        "## Training data",
        _data(recipe),
        "## Recipe",
        _recipe(recipe),
        "## Scores",
        _scores(scores),
        "## Provenance",
        _bullets(provenance) or "Not known.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(provenance: Mapping[str, Any]) -> str:
    lines = ["library_name: transformers", "pipeline_tag: feature-extraction"]
    teacher = str(provenance.get("teacher", ""))
    if teacher.count("/") == 1 and not teacher.startswith(("runs/", "out/", ".")):  # an id of the hub
        lines.append(f"base_model: {teacher}")
    tags = ["hubert", "speech", "robust-distilhubert"]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _what(config: HubertConfig, n_parameters: int) -> str:
    kind = "teacher" if config.projection_norm else "student"
    return (
        f"A HuBERT encoder ({kind}): {config.layers} transformer layers of {config.dim} features, "
        f"{n_parameters / 1e6:.1f} M parameters, 16 kHz speech in, a frame every 20 ms out."
    )


def _usage(config: HubertConfig) -> str:
    waves = "(batch, samples) at 16 kHz"
    if config.normalize_input:
        waves += ", each of zero mean and unit variance"
    code = f"""```python
from transformers import HubertModel

model = HubertModel.from_pretrained("...").eval()
features = model(waveforms).last_hidden_state  # waveforms: {waves}
```"""
    if config.conv_norm == "layer":
        return code
    return f"{code}\n\ntransformers does not mask the group norm of such models: give it equal lengths."


def _data(recipe: Mapping[str, Any]) -> str:
    data = recipe.get("data")
    if not isinstance(data, Mapping):
        return "Not known: exported without the recipe of its run."
    root = str(data.get("root") or "")
    noises = data.get("noises")
    corpora = noises.items() if isinstance(noises, Mapping) else ()
    facts = {
        "speech": _sources(data.get("train"), root),
        "speech for choosing the checkpoint": _sources(data.get("dev"), root),
        **{f"noise, {corpus}": _sources(sources, root) for corpus, sources in corpora},
    }
    return _bullets({key: value for key, value in facts.items() if value})


def _sources(sources: Any, root: str) -> str:
    """Their places below the data folder: where that lies is nobody's business."""
    names = []
    for source in sources if isinstance(sources, list) else []:
        text = str(source)
        if root and text.startswith(f"{root}/"):
            text = text.removeprefix(f"{root}/")
        names.append(PurePath(text).name if PurePath(text).is_absolute() else text)
    return ", ".join(names)


def _recipe(recipe: Mapping[str, Any]) -> str:
    if not recipe:
        return "Not known: exported without the recipe of its run."
    facts = {key: recipe[key] for key in ("cdm", "cosine_weight", "seed") if key in recipe}
    data = recipe.get("data")
    if isinstance(data, Mapping):
        facts |= {f"data.{key}": data[key] for key in ("batch_size", "max_samples") if key in data}
    for section in _SECTIONS:
        values = recipe.get(section)
        if isinstance(values, Mapping):
            facts |= {f"{section}.{key}": value for key, value in values.items()}
    return _bullets(facts)


def _scores(scores: Scores | None) -> str:
    if not scores:
        return "None given."
    tasks = list(dict.fromkeys(task for row in scores.values() for task in row))
    lines = [_row(["condition", *tasks]), _row(["---"] * (1 + len(tasks)))]
    for condition, row in scores.items():
        lines.append(_row([condition, *(f"{row[task]:g}" if task in row else "" for task in tasks)]))
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _bullets(facts: Mapping[str, Any]) -> str:
    lines = []
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        lines.append(f"* {key}: {text}")
    return "\n".join(lines)
