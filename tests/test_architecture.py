"""How the package lies: imports run one way, and nobody asks a settings block which kind it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from clone import PROJECT

ROOT = PROJECT / "src" / "distillery"
FILES = sorted(path for path in ROOT.rglob("*.py"))
FOUNDATIONS = (
    *("errors", "settings", "signature", "streams", "devices", "progress", "processes", "parallel", "provenance"),
    *(
        "ordering",
        "counts",
        "memory_limit",
        "lean_imports",
        "divergence",
        "spreadsheets",
        "proportions",
        "snakemake_internals",
    ),
)
LAYERS = (
    *(set(FOUNDATIONS), {"storage"}, {"job", "slurm", "cost"}, {"data"}, {"students", "selection", "diffusion"}),
    *({"guidance", "matching", "analysis"}, {"methods", "report"}, {"plan"}, {"stages", "commands"}, {"__main__"}),
)
"""From the bottom up. A package imports those of its own layer that do not import it, and any below."""

MAY_ASK = ("methods", "plan/experiment.py")
"""Where a block may be asked for its class or its kind."""


def name_of(path: Path) -> str:
    """The dotted name of a module, without the name of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in FILES}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """A tree without the parts that only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from executed(child)


@cache
def imports(path: Path) -> frozenset[str]:
    """The modules of the package that a module imports, also inside functions."""
    found: set[str] = set()
    for node in executed(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distillery"):
            module = (node.module or "").removeprefix("distillery").lstrip(".")
            members = {f"{module}.{name.name}".lstrip(".") for name in node.names} & NAMES.keys()
            found |= members or {module}
        elif isinstance(node, ast.Import):
            found |= {name.name.removeprefix("distillery.") for name in node.names} & NAMES.keys()
    return frozenset(found - {""})


def layer(name: str) -> int:
    """The layer of a module."""
    package = name.split(".", maxsplit=1)[0]
    return next(number for number, packages in enumerate(LAYERS) if package in packages)


@pytest.mark.parametrize("name", sorted(NAMES.keys() - {"__init__"}))
def test_a_module_imports_from_below(name: str) -> None:
    upward = [other for other in imports(NAMES[name]) if layer(other) > layer(name)]
    assert upward == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in finished:
            for other in sorted(imports(NAMES[name]) & NAMES.keys()):
                visit(other, (*path, name))
            finished.add(name)

    for name in NAMES:
        visit(name, ())


def test_packages_lie_in_at_most_nine_layers() -> None:
    below: dict[str, set[str]] = {}
    for name, path in NAMES.items():
        package = name.partition(".")[0]
        below.setdefault(package, set()).update(other.partition(".")[0] for other in imports(path))

    @cache
    def height(package: str) -> int:
        return 1 + max((height(other) for other in below[package] - {package}), default=0)

    assert max(map(height, below)) <= 9, sorted((height(package), package) for package in below)


def blocks() -> set[str]:
    """The classes of settings: those that extend `Block`, also by way of others."""
    bases: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(ast.unparse(base).split(".")[-1] for base in node.bases)
    known = {"Block"}
    while more := {name for name, of in bases.items() if of & known} - known:
        known |= more
    return known


def questions(path: Path) -> Iterator[str]:
    """Where a module asks a settings block for its class or its kind."""
    settings = blocks()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
            asked = {word.id for word in ast.walk(node.args[1]) if isinstance(word, ast.Name)}
            if asked & settings:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(isinstance(side, ast.Attribute) and side.attr == "kind" for side in sides):
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if not str(path.relative_to(ROOT)).startswith(MAY_ASK)], ids=name_of
)
def test_nobody_asks_a_block_which_kind_it_is(path: Path) -> None:
    files = {"__main__.py", "signature.py", "networks.py"}  # `kind` of a file, and of a parameter of Python
    assert [question for question in questions(path) if path.name not in files or "isinstance" in question] == []


def test_a_question_would_be_seen(tmp_path: Path) -> None:
    file = tmp_path / "asks.py"
    file.write_text("isinstance(method, LGD | Plain)\nmethod.kind == 'lgd'\nmethod.kind in ('a',)\n", "utf-8")
    assert len(list(questions(file))) == 3
