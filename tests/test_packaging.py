"""What is installed: one import name, every package, every data file; from a clone and from a zip of it."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT

TOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
SETTINGS = TOOLS["setuptools"]


def packages() -> dict[str, Path]:
    """Name and folder of every package, those that links lead to among them."""
    folders = (Path(folder) for folder, _, _ in os.walk(ROOT / "distill", followlinks=True))
    return {
        ".".join(folder.relative_to(ROOT).parts): folder
        for folder in folders
        if (folder / "__init__.py").is_file()
    }


def test_every_package_is_installed():
    assert sorted(SETTINGS["packages"]) == sorted(packages())


def test_links_and_settings_name_the_same_neighbours():
    """Links are for Python and the type checker; the settings also work where links became text files."""
    links = {f"distill.{path.name}": path for path in (ROOT / "distill").iterdir() if path.is_symlink()}
    assert SETTINGS["package-dir"] == {name: path.resolve().name for name, path in links.items()}
    for name, path in links.items():
        assert os.readlink(path) == f"../{SETTINGS['package-dir'][name]}"


def test_the_type_checker_sees_the_neighbours():
    """It follows no links."""
    assert set(SETTINGS["package-dir"].values()) < set(TOOLS["pyright"]["include"])


def test_a_wheel_of_a_zip_of_the_repository(zip_of_the_repository, tmp_path):
    """Holds every file of every package, and nothing outside of `distill`."""
    pytest.importorskip("setuptools", minversion="77")
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=zip_of_the_repository, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    found = {name for name in names if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in found} == {"distill"}
    expected = {
        str(path.relative_to(ROOT))
        for folder in packages().values()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == expected
