"""What the README shows runs as written (with a small teacher in place of one that must be downloaded)."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from distill.cli import build_parser
from distill.config import load, recipe_names

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")


def commands() -> list[str]:
    """Indented lines that start with `distill`, without comments and launchers."""
    lines = [
        line.strip().partition("  #")[0].strip() for line in TEXT.splitlines() if line.startswith("    ")
    ]
    launched = [re.sub(r"^(torchrun .* -m |srun )", "", line) for line in lines]
    return [line for line in launched if line.startswith("distill ")]


def test_there_are_commands():
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_the_command_line_is_understood(command):
    options, extra = build_parser().parse_known_args(shlex.split(command)[1:])
    assert options.run is not None
    assert all("=" in word and not word.startswith("-") for word in extra)
    recipe = getattr(options, "recipe", None)
    if recipe in recipe_names():
        load(recipe, options.overrides + extra)


def test_every_recipe_of_the_table_exists():
    table = TEXT.split("## Recipes")[1].split("\n\n")[1]
    named = set(re.findall(r"`([a-z0-9_]+)`", table.replace("distill adapt", "")))
    assert {"s1", "s8_prime", "t1"} <= named
    assert named <= set(recipe_names())


def test_the_recipe_of_ones_own_loads(tmp_path):
    block = TEXT.split("```yaml")[1].split("```")[0]
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    recipe = load(str(tmp_path / "mine.yaml"))
    assert recipe.name == "mine"
    assert recipe.distortion.additive == ("musan", "gaussian", "none")


def test_the_python_example_runs(tmp_path):
    from distill import Student, load_teacher
    from distill.checkpoints.native import write

    torch.manual_seed(0)
    write(Student.from_teacher(load_teacher("random:mini"), targets=(2, 4, 6)), tmp_path)
    code = TEXT.split("```python")[1].split("```")[0]
    code = code.replace("facebook/hubert-base-ls960", "random:mini").replace("(4, 8, 12)", "(2, 4, 6)")
    scope: dict = {}
    exec(code.replace("runs/s4", str(tmp_path)), scope)
    assert scope["features"].shape == (2, 99, 128)
    assert torch.isfinite(scope["loss"].total)


def test_the_distortions_example_runs():
    code = TEXT.split("```python")[2].split("```")[0]
    scope: dict = {"torch": torch}
    exec(code, scope)
    dataset = scope["Noisy"](list(torch.randn(4, 8000)), [torch.randn(20_000)])
    distorted = torch.stack([dataset[i] for i in range(len(dataset))])
    assert distorted.shape == (4, 8000)
    assert torch.equal(distorted[2], dataset[2])
    assert any(not torch.equal(distorted[i], dataset.waveforms[i]) for i in range(4))
    assert scope["rooms"].shape == (2, 16_000)
