"""What an artifact says of its making: digests of a stage's code, versions of packages."""

from __future__ import annotations

import ast
import hashlib
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent
PACKAGE = __package__ or "distillery"

DECLARATIONS = frozenset({"experiment", "job", "progress", "provenance", "settings", "names", "presets"})
"""Last names of the modules that no result depends on except through the settings, which are compared themselves."""

PACKAGES = ("diffusers", "numpy", "pillow", "pyarrow", "safetensors", "scikit-learn", "timm", "torch")


@cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results may depend on."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return versions


def code_digests(stage: str) -> list[str]:
    """Digests of a stage's module and of all modules of this package that it imports, one `name:digest` each.

    They cover the syntax tree without docstrings and comments, so that only an edit of what is computed changes one.
    """
    return [f"{name}:{_digest(name)[0]}" for name in sorted(_closure(f"{PACKAGE}.stages.{stage}"))]


def code_digest(stage: str) -> str:
    """One digest over `code_digests`."""
    return hashlib.sha256("\n".join(code_digests(stage)).encode()).hexdigest()[:16]


def _closure(module: str) -> set[str]:
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(_digest(name)[1])
    return seen


@cache
def _digest(module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of one module, and the modules of this package that it imports."""
    tree = ast.parse(_file(module).read_text("utf-8"))
    imported = {name for found in _imports(tree) for name in found if name.rpartition(".")[2] not in DECLARATIONS}
    text = ast.unparse(_Bare().visit(tree))
    return hashlib.sha256(text.encode()).hexdigest()[:12], tuple(sorted(imported))


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_module(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] == PACKAGE and name != PACKAGE and _file(name).exists()


def _imports(tree: ast.AST) -> list[list[str]]:
    """Modules of this package that a tree imports, at its head or inside its functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.append([alias.name for alias in node.names if _is_module(alias.name)])
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found.append([name for name in [node.module, *inner] if _is_module(name)])
    return found


class _Bare(ast.NodeTransformer):
    """Drops docstrings and other strings that stand as statements."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [
                line
                for line in body
                if not (
                    isinstance(line, ast.Expr)
                    and isinstance(line.value, ast.Constant)
                    and isinstance(line.value.value, str)
                )
            ]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
        return node
