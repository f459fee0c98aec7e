"""What holds of all test files: they stand alone, and they use the package as others may."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from clone import PROJECT

TESTS = PROJECT / "tests"
FILES = sorted(str(path.relative_to(TESTS)) for path in TESTS.rglob("*.py"))
TEST_MODULES = {path.stem for path in TESTS.rglob("test_*.py")} | {"conftest"}

PRIVATE = re.compile(r"_[A-Za-z]\w*")


def imported(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, and what it takes from them, with dots between."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def private_names(tree: ast.AST) -> Iterator[str]:
    """Private attributes of anything but `self`, read or named in a call of `setattr`, and private imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and PRIVATE.fullmatch(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield f"{ast.unparse(node)} in line {node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            words = [word.value for word in node.args if isinstance(word, ast.Constant) and isinstance(word.value, str)]
            if called in ("setattr", "getattr", "delattr"):
                yield from (repr(word) for word in words if PRIVATE.fullmatch(word.split(".")[-1]))
    yield from (name for name in imported(tree) if any(map(PRIVATE.fullmatch, name.split("."))))


@pytest.mark.parametrize("file", FILES)
def test_a_file_imports_no_test_file_and_touches_no_private_name(file: str) -> None:
    tree = ast.parse((TESTS / file).read_text("utf-8"))
    wrong = [name for name in imported(tree) if TEST_MODULES & set(name.split("."))] + list(private_names(tree))
    assert wrong == []


def test_the_rules_are_kept_by_more_than_silence() -> None:
    """Each of these breaks one."""
    for line in ("from test_chain import unet", "import test_memory"):
        assert TEST_MODULES & {part for name in imported(ast.parse(line)) for part in name.split(".")}
    for line in ("module._x", "patch.setattr(module, '_x', 1)", "getattr(a.b, '_x')", "from distillery.job import _x"):
        assert list(private_names(ast.parse(line)))
    assert not list(private_names(ast.parse("self._x = module.__file__\nfrom __future__ import annotations")))
