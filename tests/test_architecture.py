"""The architecture as figures with limits: files, levels, arrows, circles, a walk; and tests by name.

A room is a folder of `distill/`, every loose file in it, and every folder beside it: the neighbours, which
are imported as `distill.NAME`, and `bench`. `__main__` files are doors, not rooms. Imports inside functions
count, those under `TYPE_CHECKING` do not. An arrow leads from a room to one that it imports. The level of a
room is the length of the longest chain of arrows that begins there; rooms of a circle are one link.

The walk of `distill train` is what somebody reads who follows its imports: from `distill.training.train`
through every module of `distill/` that is reached, each once, depth first, in the order of the import
statements. It crosses where consecutive modules are in different rooms, and climbs where the later one's
room has the higher level; its arrows are those between the rooms that it visits.

`python tests/test_architecture.py [ROOT]` prints the figures. Of commit 6c46807, before there were rooms, it
says: 33 loose files, 14 levels, 201 arrows, circles of modules 2, of rooms 1, and of the walk 29 crossings,
14 climbs, 93 arrows.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest

NEIGHBOURS = ("data_prep", "upstream", "downstream", "analysis", "recipes")
"""Folders at the top that are imported as `distill.NAME`."""
ROOT = Path(__file__).parents[1]
START = "distill.training.train"
OVERRIDES = re.compile(r"noqa: ?D10[2]")
"""`typing_extensions.override` says the same in words."""
BANNERS = re.compile(r"^[ \t]*# ?[-=#*]{4,}", re.MULTILINE)
"""A file that needs them is two files."""
SMALL = 40
"""Lines of code up to which a module may be tested by its users' tests alone."""

TESTED_ELSEWHERE = {
    "bench/adapt.py": "benchmarks are run, not asserted",
    "bench/dying.py": "test_resume: a run that is killed and resumed",
    "bench/heads.py": "benchmarks are run, not asserted",
    "bench/manifest.py": "benchmarks are run, not asserted",
    "bench/onnx_latency.py": "benchmarks are run, not asserted",
    "bench/ours.py": "test_step: the loop, step by step",
    "bench/report.py": "test_step: the whole report",
    "bench/step_peers.py": "test_step: every peer that is installed",
    "bench/several.py": "benchmarks are run, not asserted",
    "bench/peers.py": "needs packages of the extra bench; test_contenders has stand-ins",
    "data_prep/__init__.py": "test_corpora prepares every corpus by its name",
    "data_prep/mini_tasks.py": "test_mini: the layouts that it fills",
    "distill/cli/analysis_verbs.py": "test_parser, test_main: the command line",
    "distill/cli/arguments.py": "test_parser, test_main: the command line",
    "distill/cli/verbs.py": "test_parser, test_main: the command line",
    "distill/distortions/padded.py": "every effect is tested on padded batches",
    "downstream/identity.py": "test_cache, test_evaluate_again: what makes an evaluation another one",
    "downstream/truths.py": "test_labels: the labels of every task",
}
"""Modules without a test file of their name, and where their tests are."""

LIMITS = {
    "loose files": 16,
    "levels": 10,
    "arrows": 216,
    "circles of modules": 0,
    "circles of rooms": 0,
    "crossings of the walk": 35,
    "climbs of the walk": 14,
    "arrows of the walk": 75,
}

Graph = Mapping[str, Iterable[str]]
"""Names by name: what each imports."""


class House:
    """The modules of a checkout and what they import. Neighbours are named by their folder."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self.files: dict[str, Path] = {}
        for folder in ("distill", *NEIGHBOURS, "bench"):
            for path in sorted((root / folder).rglob("*.py")):
                seen_through_link = path.resolve() != root.resolve() / path.relative_to(root)
                if not seen_through_link and path.name != "__main__.py":
                    name = ".".join(path.relative_to(root).with_suffix("").parts)
                    self.files[name.removesuffix(".__init__")] = path

    @cached_property
    def imports(self) -> dict[str, list[str]]:
        """The modules that each module imports, in the order of the statements."""
        return {name: self._imported(name) for name in self.files}

    def _imported(self, module: str) -> list[str]:
        found = {}
        for name in imported_names(ast.parse(self.files[module].read_text(encoding="utf-8"))):
            name = re.sub(rf"^distill\.(?=({'|'.join(NEIGHBOURS)})\b)", "", name)
            while name and name not in self.files:  # a function, or a package from elsewhere
                name = name.rpartition(".")[0]
            if name and name != module:
                found[name] = None
        return list(found)

    @property
    def start(self) -> str:
        """Where the walk of `distill train` begins; of checkouts before there were rooms, their module."""
        return START if START in self.files else "distill.training"

    @property
    def loose_files(self) -> list[str]:
        """The files directly in `distill/`."""
        return sorted(path.name for path in (self.root / "distill").glob("*.py"))

    def rooms_of(self, modules: Iterable[str]) -> dict[str, set[str]]:
        """The rooms of some modules, and those of them that each imports."""
        known = set(modules)
        rooms: dict[str, set[str]] = {room(name): set() for name in known}
        for name in known:
            others = {room(other) for other in self.imports[name] if other in known}
            rooms[room(name)] |= others - {room(name)}
        return rooms

    @cached_property
    def rooms(self) -> dict[str, set[str]]:
        """All rooms, and those that each imports."""
        return self.rooms_of(self.files)

    def walk(self, start: str) -> list[str]:
        """The modules of `distill/` that are reached from one of them, depth first."""
        seen: dict[str, None] = {}

        def visit(name: str) -> None:
            if name in seen or not name.startswith("distill"):
                return
            seen[name] = None
            for other in self.imports[name]:
                visit(other)

        visit(start)
        return list(seen)

    def crossings(self, walk: list[str]) -> list[tuple[str, str]]:
        """The steps of a walk that lead into another room."""
        return [(one, other) for one, other in pairwise(walk) if room(one) != room(other)]

    def climbs(self, walk: list[str]) -> list[tuple[str, str]]:
        """The crossings that lead to a higher level."""
        level = {name: len(chain) for name, chain in chains(self.rooms).items()}
        return [(one, other) for one, other in self.crossings(walk) if level[room(other)] > level[room(one)]]


def n_arrows(rooms: Mapping[str, set[str]]) -> int:
    """Pairs of rooms of which the first imports the second."""
    return sum(map(len, rooms.values()))


def room(module: str) -> str:
    """Where a module is: `distill.data`, `distill.batch`, `downstream`, ..."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "distill" else parts[0]


def imported_names(node: ast.AST) -> Iterator[str]:
    """What a piece of code imports, as dotted names, also of the things that are taken from a module."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported_names(child)


def circles(graph: Graph) -> list[list[str]]:
    """Names that import each other, directly or through others (strongly connected components, Tarjan)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for other in graph[name]:
            if other not in index:
                visit(other)
            if other in stack:
                lowest[name] = min(lowest[name], lowest[other])
        if lowest[name] == index[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            found.append(sorted(members))

    for name in graph:
        if name not in index:
            visit(name)
    return [members for members in found if len(members) > 1]


def chains(graph: Graph) -> dict[str, list[str]]:
    """By name, the longest chain of imports that begins there; the names of a circle are one link."""
    link = {name: name for name in graph}
    link |= {name: " = ".join(members) for members in circles(graph) for name in members}
    below: dict[str, set[str]] = {name: set() for name in link.values()}
    for name, others in graph.items():
        below[link[name]] |= {link[other] for other in others} - {link[name]}
    longest: dict[str, list[str]] = {}

    def visit(name: str) -> list[str]:
        if name not in longest:
            longest[name] = [name, *max((visit(other) for other in sorted(below[name])), key=len, default=[])]
        return longest[name]

    return {name: visit(link[name]) for name in graph}


def lines_of_code(path: Path) -> int:
    """Lines that hold more than comments and docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    texts = {
        id(statement)
        for statement in ast.walk(tree)
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    }
    return len(
        {
            node.lineno
            for node in ast.walk(tree)
            if isinstance(node, ast.stmt | ast.expr)
            and id(node) not in texts
            and not (isinstance(node, ast.Constant) and isinstance(node.value, str))
        }
    )


def without_namesake(house: House) -> list[str]:
    """Modules of more than `SMALL` lines of code whose test file is missing."""
    missing = []
    for path in house.files.values():
        folder = house.root / "tests" / path.relative_to(house.root).parent
        names = [f"test_{path.name}"]
        if path.name == "__init__.py":  # of cli, the command; of others what the package is named after
            names = ["test_main.py", f"test_{folder.name}.py"]
        if not any((folder / name).exists() for name in names) and lines_of_code(path) > SMALL:
            missing.append(str(path.relative_to(house.root)))
    return sorted(missing)


def marked(house: House, pattern: re.Pattern[str]) -> list[str]:
    """The files, tests among them, of which a line matches; and how many do."""
    files = [*house.files.values(), *sorted((house.root / "tests").rglob("*.py"))]
    counts = {path: len(pattern.findall(path.read_text(encoding="utf-8"))) for path in files}
    return [f"{path.relative_to(house.root)} ({count})" for path, count in counts.items() if count]


def report(house: House) -> str:
    """The figures, and what they are about."""
    walk = house.walk(house.start)
    lines = [f"{name:<24}{value:>5}   limit {LIMITS[name]}" for name, value in figures(house).items()]
    details = {
        "longest chain": max(chains(house.rooms).values(), key=len),
        "circles": map(" = ".join, circles(house.imports) + circles(house.rooms)),
        "climbs": (f"{one} -> {other}" for one, other in house.climbs(walk)),
        "no test file of their name": without_namesake(house),
        "hooks without override": marked(house, OVERRIDES),
        "banners": marked(house, BANNERS),
    }
    lines += [f"{name}: {', '.join(found) or 'none'}" for name, found in details.items()]
    return "\n".join(lines)


def figures(house: House) -> dict[str, int]:
    """What the limits are about."""
    walk = house.walk(house.start)
    return {
        "loose files": len(house.loose_files),
        "levels": max(map(len, chains(house.rooms).values())),
        "arrows": n_arrows(house.rooms),
        "circles of modules": len(circles(house.imports)),
        "circles of rooms": len(circles(house.rooms)),
        "crossings of the walk": len(house.crossings(walk)),
        "climbs of the walk": len(house.climbs(walk)),
        "arrows of the walk": n_arrows(house.rooms_of(walk)),
    }


@pytest.fixture(scope="module")
def house() -> House:
    return House()


def test_tests_mirror_the_packages(house):
    assert without_namesake(house) == sorted(TESTED_ELSEWHERE)


def test_hooks_say_override_and_no_file_needs_banners(house):
    assert marked(house, OVERRIDES) + marked(house, BANNERS) == []


@pytest.mark.parametrize("figure", LIMITS)
def test_a_figure_keeps_its_limit(house, figure):
    assert figures(house)[figure] <= LIMITS[figure], report(house)


def test_only_the_command_line_imports_the_neighbours(house):
    found = [
        f"{name} imports {other}"
        for name, others in house.imports.items()
        for other in others
        if name.startswith("distill") and room(name) != "distill.cli" and room(other) in NEIGHBOURS
    ]
    assert found == []


def test_circles_and_chains_are_found():
    graph = {"a": ["b"], "b": ["c", "d"], "c": ["b"], "d": ["e"], "e": [], "f": ["e"]}
    assert circles(graph) == [["b", "c"]]
    assert chains(graph)["a"] == ["a", "b = c", "d", "e"]
    assert chains(graph)["f"] == ["f", "e"]


def test_imports_of_functions_count_and_those_for_types_do_not():
    code = """
    import a.b
    if TYPE_CHECKING:
        import c
    def f():
        from d import e, g
    """
    assert list(imported_names(ast.parse(dedent(code)))) == ["a.b", "d.e", "d.g"]


def test_a_walk_is_depth_first(tmp_path):
    texts = {
        "distill/a/one.py": "from distill.b import two\nfrom distill.a import three\n",
        "distill/b/two.py": "import distill.c\n",
        "distill/c.py": "",
        "distill/a/three.py": "from distill.b.two import anything\nimport bench.x\n",
        "bench/x.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    house = House(tmp_path)
    walk = house.walk("distill.a.one")
    assert walk == ["distill.a.one", "distill.b.two", "distill.c", "distill.a.three"]
    assert len(house.crossings(walk)) == 3
    assert house.climbs(walk) == [("distill.c", "distill.a.three")]
    assert house.rooms["distill.a"] == {"distill.b", "bench"}


if __name__ == "__main__":
    print(report(House(Path(sys.argv[1])) if len(sys.argv) > 1 else House()))
