"""What the pages say is true: commands are understood, names exist, links lead somewhere, examples run."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path
from typing import get_type_hints

import pytest
import torch

from distill.cli import parse
from distill.cli.commands import noise_sources, recipes_and_changes
from distill.cli.parser import build_parser
from distill.config import from_words, load, recipe_names
from distill.downstream.options import EvaluationConfig
from distill.options import AdaptRecipe, DistillRecipe
from tests.documents import PAGES, anchors, code_blocks, commands, links
from tests.downstream import made_results
from tests.paths import ROOT

COMMANDS = list(dict.fromkeys(command for page in PAGES for command in commands(page)))
FOLDERS = "distill|upstream|downstream|analysis|data_prep|recipes|bench|docs|tests"


def test_commands_are_found():
    assert len(COMMANDS) > 60
    assert len(commands("README.md")) >= 12


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_is_understood(command):
    options = parse(build_parser(), shlex.split(command)[1:])
    assert options.run is not None
    if command.startswith("distill evaluate"):
        values = {"task": options.task, "noises": noise_sources(options.noise)}
        from_words(EvaluationConfig, values, options.overrides)
    recipe = getattr(options, "recipe", None) or getattr(options, "source", None)
    if command.startswith("distill train"):
        names, changes = recipes_and_changes(options)
        for name in set(names) & {*recipe_names()}:
            load(name, changes)
    elif recipe in recipe_names():
        load(recipe, options.overrides)


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    named = re.findall(rf"(?<![\w/.~-])(?:{FOLDERS})/[\w./*{{}},-]*[\w/*}}]", PAGES[page])
    missing = [name for name in named if not list(ROOT.glob(name.rstrip("/")))]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_names_of_the_library_exist(page):
    for name in set(re.findall(r"(?<![\w./-])distill(?:\.[A-Za-z_]\w*)+", PAGES[page])):
        assert exists(name), name


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or what is found in one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part, None)
        return found is not None
    return False


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page):
    """Keys of a recipe or of an evaluation, as in `optim.lr`; those below `trainer` are Lightning's."""
    known = {name for kind in (DistillRecipe, AdaptRecipe, EvaluationConfig) for name in option_names(kind)}
    sections = {name.partition(".")[0] for name in known if "." in name}
    named = re.findall(rf"(?<![\w./{{-])((?:{'|'.join(sections)})\.[a-z_]+)(?![\w./])", PAGES[page])
    assert {name for name in named if not re.search(r"\.(json|onnx|py|safetensors)$", name)} <= known


def option_names(kind: type, prefix: str = "") -> list[str]:
    """The keys of a dataclass and of those inside it: "optim", "optim.lr"."""
    found = []
    for field, hint in get_type_hints(kind).items():
        found.append(f"{prefix}{field}")
        if dataclasses.is_dataclass(hint):
            found += option_names(hint, f"{prefix}{field}.")
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


@pytest.mark.parametrize("page", PAGES)
def test_named_tests_exist(page):
    """`tests/a/test_b.py::test_c`, or without the test."""
    for path, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGES[page]):
        assert (ROOT / path).is_file(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


def test_the_index_lists_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages == {link for link in links("docs/index.md") if re.fullmatch(r"\w+\.md", link)}


def test_every_recipe_of_the_table_exists():
    table = PAGES["docs/getting_started.md"].split("## Recipes")[1].split("\n\n")[1]
    named = set(re.findall(r"`([a-z0-9_]+)`", table.replace("distill adapt", "")))
    assert {"s1", "s8_prime", "t1"} <= named
    assert named <= set(recipe_names())


def test_the_recipe_of_ones_own_loads(tmp_path):
    (block,) = code_blocks("docs/getting_started.md", "yaml")
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    recipe = load(str(tmp_path / "mine.yaml"))
    assert recipe.name == "mine"
    assert recipe.distortion.additive == ("musan", "gaussian", "none")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with a student, runs/s4, a score of it, evaluations, and a teacher, runs/t1_prime."""
    from distill import Student, load_teacher
    from distill.checkpoints.native import write
    from distill.downstream.features import hash_encoder

    folder = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    teacher = load_teacher("random:mini")
    student = Student.from_teacher(teacher, targets=(2, 4, 6))
    write(student, folder / "runs" / "s4")
    made_results.write(folder / "evaluations", {"checkpoint_hash": hash_encoder(student.encoder)})
    write(teacher, folder / "runs" / "t1_prime")
    return folder


EXPORTS = [line for line in commands("docs/exports.md") if line.startswith("distill export")]


@pytest.mark.parametrize("command", EXPORTS)
def test_the_exports_run(command, runs, monkeypatch):
    from distill.cli import main

    if "onnx" in command:
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(runs)
    words = shlex.split(re.sub(r" --push-to-hub \S+", "", command))[1:]
    assert main(words) == 0
    assert Path(words[words.index("--out") + 1]).exists()


def test_the_example_of_onnx_runs(runs, monkeypatch):
    pytest.importorskip("onnxruntime")
    from distill.cli import main

    monkeypatch.chdir(runs)
    if not Path("s4-onnx").exists():
        assert main(["export", "runs/s4", "--to", "onnx", "--out", "s4-onnx"]) == 0
    (block,) = code_blocks("docs/exports.md", "python")
    scope: dict = {}
    exec(block, scope)
    assert scope["features"].shape == (2, 49, 128) and scope["frames"].tolist() == [49, 27]
