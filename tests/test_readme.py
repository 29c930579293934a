"""What the README shows runs as written (with a small teacher in place of one that must be downloaded)."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from distill.cli import parse
from distill.cli.commands import noise_sources
from distill.cli.parser import build_parser
from distill.config import from_words, load, recipe_names
from distill.downstream.options import EvaluationConfig
from tests.paths import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Indented lines of README and docs that start with `distill`, without comments and launchers."""
    texts = [TEXT, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
    joined = re.sub(r"\\\n\s*", "", "\n".join(texts))  # lines that end in a backslash go on
    lines = [
        line.strip().partition("  #")[0].strip() for line in joined.splitlines() if line.startswith("    ")
    ]
    launched = [re.sub(r"^(torchrun .* -m |srun )", "", line) for line in lines]
    return [line for line in launched if line.startswith("distill ")]


def test_there_are_commands():
    assert len(commands()) > 8


@pytest.mark.parametrize("command", dict.fromkeys(commands()))
def test_the_command_line_is_understood(command):
    options = parse(build_parser(), shlex.split(command)[1:])
    assert options.run is not None
    if command.startswith("distill evaluate"):
        values = {"task": options.task, "noises": noise_sources(options.noise)}
        from_words(EvaluationConfig, values, options.overrides)
    recipe = getattr(options, "recipe", None)
    if recipe in recipe_names():
        load(recipe, options.overrides)


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


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a student, runs/s4, and a teacher, runs/t1_prime."""
    from distill import Student, load_teacher
    from distill.checkpoints.native import write

    folder = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    # Wider than its CNN, as real ones are: s3prl and fairseq have no projection where the widths are equal.
    teacher = load_teacher("random:mini")
    write(Student.from_teacher(teacher, targets=(2, 4, 6)), folder / "runs" / "s4")
    write(teacher, folder / "runs" / "t1_prime")
    return folder


def test_the_upstream_examples_run(runs, monkeypatch):
    pytest.importorskip("s3prl")
    register, hub = TEXT.split("```python")[3:5]
    scope: dict = {"torch": torch}
    scope["waveforms"], scope["lengths"] = torch.randn(2, 32_000), torch.tensor([32_000, 24_000])
    exec(register.split("```")[0].replace("runs/s4", str(runs / "runs" / "s4")), scope)
    assert scope["features"].shape == (2, 100, 128) and scope["frames"].tolist() == [100, 75]
    monkeypatch.chdir(ROOT)
    exec(hub.split("```")[0].replace("runs/s4", str(runs / "runs" / "s4")), scope)
    assert scope["z"].shape == (2, 99, 128)


@pytest.mark.parametrize("command", re.findall(r"`(distill export [^`]+)`", TEXT))
def test_the_exports_run(command, runs, monkeypatch):
    from distill.cli import main

    if "onnx" in command:
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(runs)
    words = shlex.split(command)[1:]
    assert main(words) == 0
    assert Path(words[-1]).exists()
