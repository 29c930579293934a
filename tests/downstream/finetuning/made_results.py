"""Word error rates as tests of fine-tuned models write them."""

import json
from pathlib import Path
from typing import Any

LS_960 = ["librispeech/train-clean-100", "librispeech/train-clean-360", "librispeech/train-other-500"]


def pretraining(**changes) -> dict[str, Any]:
    return {
        "name": "spiral_base",
        "kind": "spiral",
        "train": LS_960,
        "steps": 200_000,
        "mct": False,
        "noises": {},
        "start": None,
        "ema": {"base": 0.995, "final": 1.0, "steps": None, "noise": True, "masking": None},
        "heads": {"dim": 256, "projection": "linear", "predictor": "batch"},
        "shift": 16,
    } | changes


def settings(**changes) -> dict[str, Any]:
    return {
        "units": "subword",
        "vocabulary": 1024,
        "test": "clean",
        "snr_db": None,
        "family": "spiral",
        "encoder parameters": 90_617_216,
        "frozen": False,
        "finetuning speech": ["librispeech/train-clean-100"],
        "finetune_mct": False,
        "pretraining": pretraining(),
        "pretrain_mct": False,
        "noise heard in training": [],
    } | changes


def score(condition: str = "test-clean", value: float = 5.0, **changes) -> dict[str, Any]:
    """A result; those of `settings` that are given win."""
    sizes = {"test-clean": 2_620, "test-other": 2_939, "dev-clean": 2_703, "dev-other": 2_864}
    return {
        "task": "finetune",
        "condition": condition,
        "metric": "wer",
        "value": value,
        "seed": 0,
        "fold": None,
        "lm": False,
        "features": "last",
        "model": "base",
        "checkpoint_hash": "a" * 32,
        "recipe": "finetune_base_100h",
        "head_steps": 80_000,
        "n_utterances": sizes.get(condition, 1_320),
        "versions": {},
        "finished": "2026-01-01T00:00:00",
    } | {**changes, "settings": settings(**changes.get("settings", {}))}


def write(folder: Path, *scores: dict[str, Any]) -> Path:
    (folder / "results").mkdir(parents=True, exist_ok=True)
    for number, values in enumerate(scores):
        (folder / "results" / f"{number}.json").write_text(json.dumps(values))
    return folder
