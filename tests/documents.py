"""The pages that people read: those at the top and docs/, and what is written in them."""

import re
from pathlib import Path

from tests.paths import ROOT

TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*map(ROOT.joinpath, TOP), *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES["README.md"]


def code_blocks(page: str, language: str) -> list[str]:
    """What stands between ```language and ```."""
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], flags=re.S | re.M)


def prose(page: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", PAGES[page], flags=re.S | re.M)


def commands(page: str) -> list[str]:
    """The lines of indented and fenced blocks, and the cells of tables, that call `distill`.

    Comments, launchers (torchrun, srun) and cells that only name a verb are left out.
    """
    text = re.sub(r"\\\n\s*", "", PAGES[page])  # a backslash joins lines
    fenced = [line for block in code_blocks(page, "") for line in block.splitlines()]
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    cells = [cell.strip() for line in text.splitlines() if line.startswith("|") for cell in line.split("|")]
    in_tables = [
        cell.strip("`") for cell in cells if re.fullmatch(r"`distill (?!probe linear`)[^`]+ [^`]+`", cell)
    ]
    lines = [line.strip().partition("  #")[0].strip() for line in [*indented, *fenced, *in_tables]]
    launched = [re.sub(r"^(torchrun .* -m |srun .*?(?=distill ))", "", line) for line in lines]
    return [line for line in launched if line.startswith("distill ")]


def links(page: str) -> list[str]:
    """Targets of the links and pictures of a page that lead into the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
