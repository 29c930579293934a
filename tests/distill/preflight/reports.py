"""Recipes to check, and lines of reports to look at."""

from pathlib import Path

from distill.config import load
from distill.options import Recipe
from distill.preflight.findings import CheckReport, Finding


def mini(data: Path, *overrides: str) -> Recipe:
    return load("mini", [f"data.root={data}", "teacher=random:mini", "trainer.accelerator=cpu", *overrides])


def finding(report: CheckReport, what: str) -> Finding:
    """The one line whose first column begins like that."""
    (found,) = [line for line in report.findings if line.what.startswith(what)]
    return found
