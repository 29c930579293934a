"""Recipes of strangers: they may refer to their own keys, and their names are names."""

from dataclasses import replace
from pathlib import Path

import pytest

from distill.config import from_words, load, recipe_names, to_yaml
from distill.downstream.options import EvaluationConfig
from distill.errors import ConfigError
from distill.options import DistillRecipe

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", SECRET)


def refused(recipe: str | Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(str(recipe), overrides)
    said = str(error.value)
    assert said.isprintable() and SECRET not in said
    return said


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


OUTSIDE = [
    "${oc.env:SECRET_TOKEN}",
    "${oc.env:SECRET_TOKEN,none}",
    "${ oc.env:SECRET_TOKEN }",
    "${env:SECRET_TOKEN}",
    "${oc.decode:'${oc.env:SECRET_TOKEN}'}",
    "${oc.create:{a:1}}",
    "${oc.select:seed}",
    "${oc.dict.keys:optim}",
    "${mine:1}",
    "a/${data.root}/${oc.env:SECRET_TOKEN}",
    "${data.${oc.env:SECRET_TOKEN}}",
    "${data.${name}}",
    "${oc.${name}:SECRET_TOKEN}",
    r"\${oc.env:SECRET_TOKEN}",
    r"\\${oc.env:SECRET_TOKEN}",
    r"\${data.root}",
    "$${data.root}{oc.env:SECRET_TOKEN}",
    "${",
    "${data.root",
]


@pytest.mark.parametrize("value", OUTSIDE)
def test_only_a_recipes_own_keys_are_resolved(value, tmp_path):
    for key in ("teacher", "description", "name", "kind", "extends", "cdm"):
        said = refused(
            write(tmp_path / "mine.yaml", f"seed: 3\n{key}: '{value.replace(chr(39), chr(39) * 2)}'\n")
        )
        assert said.startswith(f"{tmp_path}/mine.yaml, line 2: {key}: ") and "is not resolved: only" in said
    quoted = f"teacher='{value.replace(chr(39), chr(39) * 2)}'"
    assert refused("s4", quoted).startswith("override 'teacher': ")
    with pytest.raises(ConfigError, match="not resolved"):
        from_words(EvaluationConfig, {"task": "ks"}, [quoted.replace("teacher", "label")])
    with pytest.raises(ConfigError, match="^sources.train: .* is not resolved"):
        from_words(EvaluationConfig, {"task": "ks", "sources": {"train": value}}, [])


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("data: {train: [a, '${oc.env:SECRET_TOKEN}']}\n", "line 1: data.train[1]"),
        (
            "trainer:\n  profiler:\n    a:\n    - b: '${oc.env:SECRET_TOKEN}'\n",
            "line 4: trainer.profiler.a[0].b",
        ),
        ("trainer:\n  '${oc.env:SECRET_TOKEN}': 1\n", "line 2: a key in trainer"),
        ("'${oc.env:SECRET_TOKEN}': 1\n", "line 1: a key"),
        ('teacher: "\\x24{oc.env:SECRET_TOKEN}"\n', "line 1: teacher"),
        ('teacher: "${oc.\\\n  env:SECRET_TOKEN}"\n', "line 1: teacher"),
        ("data: &a {root: '${oc.env:SECRET_TOKEN}'}\ntrainer: *a\n", "line 1: data.root"),
        ("description: >\n  two\n  ${oc.env:SECRET_TOKEN}\n", "line 1: description"),
        ("logging: {project: '${oc.env:SECRET_TOKEN}'}\n", "line 1: logging.project"),
    ],
)
def test_wherever_in_the_file_it_stands(text, where, tmp_path):
    path = write(tmp_path / "mine.yaml", text)
    assert refused(path).startswith(f"{path}, {where}: ")
    child = write(tmp_path / "child.yaml", "extends: mine.yaml\nteacher: x\ndescription: y\n")
    assert refused(child).startswith(f"{path}, {where}: ")  # though the child says something else


@pytest.mark.parametrize(
    "override",
    [
        "data.train=[a,'${oc.env:SECRET_TOKEN}']",
        'teacher="\\x24{oc.env:SECRET_TOKEN}"',
        "trainer={a: {b: '${oc.env:SECRET_TOKEN}'}}",
        "trainer.${oc.env:SECRET_TOKEN}=1",
    ],
)
def test_wherever_in_an_override_it_stands(override):
    assert "is not resolved: only" in refused("s4", override)


def test_no_reference_is_put_together_of_parts(tmp_path):
    path = write(tmp_path / "mine.yaml", "data: {root: '$'}\nteacher: '${data.root}{oc.env:SECRET_TOKEN}'\n")
    assert refused(path).startswith(f"{path}: teacher: '${{oc.env:SECRET_TOKEN}}' is not resolved")


def test_what_is_nested_too_deeply_is_refused_in_a_line(tmp_path):
    nested = "[" * 400 + "]" * 400
    assert "nested too deeply" in refused(write(tmp_path / "mine.yaml", f"trainer: {{a: {nested}}}\n"))
    assert refused("s4", f"trainer.a={nested}").startswith("override 'trainer.a=[[")


def test_own_keys_are_resolved(tmp_path):
    text = "data: {root: /c, train: ['${data.root}/a.tsv'], dev: ['${data.train[0]}', '${data.train.0}']}\n"
    path = write(
        tmp_path / "mine.yaml", f"extends: s4\nname: mine\ndescription: '${{name}}, costs 5 $ {{}}'\n{text}"
    )
    recipe = load(str(path), ["teacher=${data.root}/t"])
    assert recipe.data.dev == ["/c/a.tsv"] * 2 and recipe.teacher == "/c/t"
    assert recipe.description == "mine, costs 5 $ {}"


@pytest.mark.parametrize("character", ["\\0", "\\e", "\\x7f", "\\x9b", "\\r"])
def test_no_control_character_gets_into_messages_and_paths(character, tmp_path):
    for line in (f'description: "a{character}b"', f'"a{character}b": 1', f'trainer: {{a: ["{character}"]}}'):
        path = write(tmp_path / "mine.yaml", f"seed: 1\n{line}\n")
        said = refused(path)
        assert said.startswith(f"{path}, line 2: ") and "has a control character" in said
    assert "has a control character" in refused("s4", f'teacher="a{character}b"')


NAMES = [
    "../../x",
    "/tmp/x",
    "a/b",
    "a\\b",
    "..",
    ".",
    ".hidden",
    "-rf",
    "",
    " ",
    "a b",
    "a\n",
    "x" * 101,
    "é" * 51,
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_plain(name, tmp_path):
    quoted = '"' + name.replace("\\", "\\\\").replace("\n", "\\n") + '"'
    path = write(tmp_path / "mine.yaml", f"extends: s4\nname: {quoted}\n")
    assert refused(path).startswith(f"{path}: name must be a plain name of at most 100 ")
    assert refused("s4", f"name={quoted}").startswith("s4: name must be a plain name") or not name
    assert "project must be a plain name" in refused("s4", f"logging.project={quoted}") or not name
    with pytest.raises(ValueError, match="^name must be a plain name"):
        DistillRecipe(name=name)


@pytest.mark.parametrize(
    "name", ["s4", "s4_prime", "x" * 100, "_a", "2024-11-29_s4.b", "Übung", "实验1", *recipe_names()]
)
def test_these_are_plain_names(name, tmp_path):
    recipe = replace(load("s4"), name=name)
    assert load(str(write(tmp_path / "recipe.yaml", to_yaml(recipe)))) == recipe


def test_numbers_are_names():
    assert load("s4", ["name=2024"]).name == "2024"
