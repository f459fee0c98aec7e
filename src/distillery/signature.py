"""What the signature of a stage's `run` says: the files that the stage takes, and the command that runs it."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]
Log = Annotated[Path, "log"]
"""An output that survives the failure of its job."""


@dataclass(frozen=True)
class File:
    """One argument of `run`.

    Attributes:
        kind: what the stage does with it; it is also the directive of the rule that names it.
        many: whether it is a list of files.
        optional: whether it may be absent.
    """

    kind: Literal["input", "output", "log"]
    many: bool
    optional: bool


def stage_files(run: Callable[..., object]) -> dict[str, File]:
    """The files that a stage takes, by the name of the argument, in the order of the signature."""
    hints = typing.get_type_hints(run, include_extras=True)
    files: dict[str, File] = {}
    for name, parameter in inspect.signature(run).parameters.items():
        if name in ("settings", "job"):
            continue
        hint = str(hints[name])
        kind: Any = next(kind for kind in ("output", "log", "input") if f"'{kind}'" in hint)
        files[name] = File(kind, hint.startswith("list["), parameter.default is not inspect.Parameter.empty)
    return files


def option(argument: str) -> str:
    """The option of the command line for an argument of `run`."""
    return f"--{argument.replace('_', '-')}"


def shell_command(stage: str, run: Callable[..., object], threads: str = "1") -> str:
    """The command of a rule: every file of the stage under its name, quoted by Snakemake."""
    words = [f"python -m distillery {stage}", "--settings {params.settings:q}", f"--threads {threads}"]
    words += [f"{option(name)} {{{file.kind}.{name}:q}}" for name, file in stage_files(run).items()]
    return " ".join([*words, "--cost {log.cost:q} > {log.text:q} 2>&1"])
