"""What an artifact says of its making: digests of a stage's code, versions of packages."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from distillery.processes import temporary_name

ROOT = Path(__file__).parent
PACKAGE = __package__ or "distillery"

DECLARATIONS = frozenset(
    {
        "errors",
        "experiment",
        "job",
        "processes",
        "progress",
        "provenance",
        "settings",
        "names",
        "presets",
        "generators",
        "signature",
    }
)
"""Last names of the modules that no result depends on except through the settings, which are compared themselves."""

DECLARING_METHODS = frozenset(
    f"{PACKAGE}.methods.{name}" for name in ("base", "best_of", "external", "lgd", "sampling")
)
"""Methods that compute nothing themselves: stages read of them only what arrives in the settings."""

NO_COMMIT = "not a checkout"

_AWAY = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|(.*[/\\])?\.\.[/\\]")
"""How a path begins that lies outside the working folder: its folders name users and disks."""

Provenance = dict[str, str]
"""What an artifact says of its making, as text by name."""

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


@cache
def commit() -> str:
    """The commit of this code, `… with changes` where files of the package differ from it, or `not a checkout`.

    A package that lies in another project's checkout, as in an environment inside it, has no commit.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
        head = git("rev-parse", "--verify", "HEAD")
        if tracked.returncode or head.returncode:
            return NO_COMMIT
        changed = git("diff", "--quiet", "HEAD", "--", ".").returncode
    except OSError:
        return NO_COMMIT
    return f"{head.stdout.strip()}{' with changes' if changed else ''}"


def code_digests(stage: str) -> list[str]:
    """Digests of a stage's module and of all modules of this package that it imports, one `name:digest` each.

    They cover the syntax tree without docstrings and comments, so that only an edit of what is computed changes one.
    """
    found = [f"{name}:{_digest(name)[0]}" for name in sorted(_closure(f"{PACKAGE}.stages.{stage}"))]
    _Parsed.save()
    return found


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


def clear_cache() -> None:
    """Forget the digests of this process, for where a module has changed under it."""
    _digest.cache_clear()


@cache
def _digest(module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of one module, and the modules of this package that it imports."""
    digest, names = _Parsed.of(_file(module).read_bytes())
    imported = {name for name in names if _is_module(name) and not declares(name)}
    return digest, tuple(sorted(imported))


class _Parsed:
    """What parsing a file gave, kept between processes by its content: every job asks for dozens of files.

    The file of a user's cache holds nothing that cannot be computed again; where it cannot be written, it is.
    """

    MOST = 4000
    known: ClassVar[dict[str, tuple[str, list[str]]]] = {}
    fresh: ClassVar[bool] = False
    loaded: ClassVar[bool] = False

    @classmethod
    def of(cls, content: bytes) -> tuple[str, list[str]]:
        """The digest of a file's code, and the modules that it may import."""
        if not cls.loaded:
            cls.known, cls.loaded = cls._read(), True
        key = hashlib.sha256(_this_file() + b"\0" + content).hexdigest()
        if key not in cls.known:
            tree = ast.parse(content)
            names = sorted(set(_imports(tree)))
            text = ast.unparse(_Bare().visit(tree))
            cls.known[key] = (hashlib.sha256(text.encode()).hexdigest()[:12], names)
            cls.fresh = True
        return cls.known[key]

    @staticmethod
    def _path() -> Path:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        return Path(folder, PACKAGE, f"digests-{sys.version_info.major}.{sys.version_info.minor}.json")

    @classmethod
    def _read(cls) -> dict[str, tuple[str, list[str]]]:
        try:
            found = json.loads(cls._path().read_text("utf-8"))
            return {key: (str(digest), [str(name) for name in names]) for key, (digest, names) in found.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    @classmethod
    def save(cls) -> None:
        """Write what is new, beside what other processes wrote meanwhile."""
        if not cls.fresh:
            return
        cls.fresh = False
        path = cls._path()
        temporary = temporary_name(path)
        merged = {**cls._read(), **cls.known}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(dict(list(merged.items())[-cls.MOST :])), "utf-8")
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)


@cache
def _this_file() -> bytes:
    return Path(__file__).read_bytes()


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _is_module(name: str) -> bool:
    return name.split(".", maxsplit=1)[0] == PACKAGE and name != PACKAGE and _file(name).exists()


def declares(module: str) -> bool:
    """Whether no result depends on a module except through the settings."""
    return module.rpartition(".")[2] in DECLARATIONS or module in DECLARING_METHODS


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a tree, without those that only a type checker reads."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                yield from _executed(other)
        else:
            yield from _executed(node)


def _imports(tree: ast.AST) -> list[str]:
    """What a tree imports of this package, at its head or inside its functions: modules, and names in them."""
    found: list[str] = []
    for node in _executed(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return [name for name in found if name.split(".", maxsplit=1)[0] == PACKAGE]


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


def without_folders(value: Any) -> Any:
    """Settings without the folders of paths that lie outside the working folder."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    if isinstance(value, str) and _AWAY.match(value):
        return re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value
