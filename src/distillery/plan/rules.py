"""What a rule hands to its stage: the settings, the digests of its code, and the command."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING

from distillery.provenance import code_digests
from distillery.settings import canonical
from distillery.signature import shell_command

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment
    from distillery.plan.inputs import Wildcards
    from distillery.plan.layout import Pattern
    from distillery.report.captions import Captions

SHOWN = ("csv", "svg")
"""The formats of tables and figures that reports show."""


def settings(experiment: Experiment, stage: str) -> Callable[[Wildcards], str]:
    """A function from the wildcards of a job to the settings of its stage, as one canonical JSON."""
    block = stage_module(stage).Settings

    def of(wildcards: Wildcards) -> str:
        return canonical(block.of(experiment, **dict(wildcards.items())))

    return of


def checked(experiment: Experiment, stage: str, need: str = "trained") -> Callable[[Wildcards], list[str]]:
    """A function from the wildcards of a job to the checks of its networks, where they are of timm.

    There is a file for each network, side and need, so that another network in the experiment trains nothing again.

    Args:
        need: as `Experiment.network_check` takes it.
    """
    block = stage_module(stage).Settings

    def of(wildcards: Wildcards) -> list[str]:
        own = block.of(experiment, **dict(wildcards.items()))
        checks = [
            path
            for trained in (own, *getattr(own, "others", ()))
            for path in experiment.network_check(
                trained.network, trained.recipe.size if hasattr(trained, "recipe") else None, need
            )
        ]
        return list(dict.fromkeys(checks))

    return of


def code(stage: str) -> list[str]:
    """The digests of the code behind a stage: a job runs again when one changes, and the reason names the module."""
    return code_digests(stage)


def command(stage: str, threads: str = "1") -> str:
    """The shell command of a stage, from the signature of its `run`."""
    return shell_command(stage, stage_module(stage).run, threads)


def shown(report: Callable[..., Pattern], captions: Captions, files: dict[str, Pattern]) -> dict[str, Pattern]:
    """The files of a table or figure, as outputs that the report of Snakemake shows with title, category and caption.

    Args:
        report: Snakemake's flag of that name.
        files: of `layout.table` or `layout.figure`: one format is flagged, a CSV or an SVG.

    Raises:
        BadInput: there is no caption.
    """
    flagged = {}
    for name, path in files.items():
        flagged[name] = path
        if path.rpartition(".")[2] in SHOWN:
            caption = captions.of(path)
            wildcards = {word: f"{{{word}}}" for word in re.findall(r"{(\w+)}", path)}
            file = str(captions.file(path).resolve())
            flagged[name] = report(
                path,
                caption=file,
                category=caption.category,
                labels={"title": caption.title, "form": caption.form, **wildcards},
            )
    return flagged


def one_of(names: Iterable[str]) -> str:
    """A wildcard constraint: one of these names; it matches nothing where there are none."""
    return "|".join(map(re.escape, names)) or "(?!)"


def memory(gigabytes: int) -> Callable[[Wildcards, int], str]:
    """Memory of a job: so much at first, and as much again with each attempt after a job that was killed."""

    def of(wildcards: Wildcards, attempt: int) -> str:
        return f"{gigabytes * attempt}GB"

    return of


def stage_module(stage: str) -> ModuleType:
    """The module of a stage; importing it computes nothing."""
    return importlib.import_module(f"distillery.stages.{stage}")
