"""Readers of recipes and of `key=value` words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distill import config
from tests.fuzz.target import Target
from tests.paths import ROOT

NAMES = ("s4_prime", "mini_teacher", "spiral_mini", "finetune_mini")


def _seeds() -> list[bytes]:
    """Short recipes, and what those that are shipped state themselves."""
    short = b"extends: s4\nname: mine\noptim: {lr: 1e-4, betas: [0.9, 0.98]}\ndata:\n  train: [a.tsv]\n"
    anchored = b"optim: &b {lr: 1.0e-4}\ndat: *b\nteacher: '${name}/x'\nname: y\n"
    return [short, anchored, *((ROOT / "recipes" / f"{name}.yaml").read_bytes() for name in NAMES)]


def _read(path: Path) -> None:
    config.load(str(path))


def _word(path: Path) -> None:
    config.load("s4", path.read_text(encoding="utf-8", errors="surrogateescape").split("\n"))


def _dump(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


YAML_WORDS = (
    *(b"&a", b"*a", b"<<: *a", b"!!python/object/apply:os.system [x]", b"!!binary aGk=", b"2020-01-01"),
    *(b"? ", b": ", b"- ", b"|\n", b">\n", b"---\n", b"...\n", b"%YAML 9.9\n", b"${oc.env:HOME}", b"???"),
    *(b"extends: recipe.yaml\n", b"=", b"!!timestamp 1", b"!!set {a}", b"0o777", b"1:30", b"${", b"\\"),
)
TARGETS = [
    Target(
        name="recipe",
        file="recipe.yaml",
        seeds=_seeds,
        read=_read,
        words=YAML_WORDS,
        parse=yaml.safe_load,
        dump=_dump,
    ),
    Target(
        name="override",
        file="words.txt",
        seeds=lambda: [b"optim.lr=1e-4", b"data.train=[a.tsv,b.tsv]\nname=x", b"trainer.a.b={c: [1, 2]}"],
        read=_word,
        words=YAML_WORDS,
    ),
]
