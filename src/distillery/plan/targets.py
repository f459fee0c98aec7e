"""Which sets, tables and figures an experiment asks for."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

from distillery.methods.lgd import LGD
from distillery.plan import layout
from distillery.plan.experiment import Analysis, Experiment
from distillery.storage.atomic import write_json


def distilled_sets(experiment: Experiment) -> list[str]:
    """The distilled set of every run, method and size."""
    return [
        layout.fill(layout.DISTILLED, run=run, method=name, ipc=ipc)
        for run in experiment.runs
        for name, method in experiment.methods.items()
        for ipc in method.sizes(experiment.ipc)
        if ipc != "full"
    ]


def validation_images(experiment: Experiment) -> list[str]:
    """The table of validation images, where the data set has some."""
    return [] if experiment.dataset.validation is None else [layout.VALIDATION]


def tables(experiment: Experiment) -> list[str]:
    """The tables that the experiment asks for."""
    analysis = experiment.analysis
    wanted = {
        "accuracy": True,
        "statistics": True,
        "autoencoder": bool(experiment.generators),
        "increments": bool(experiment.made_by("generate_increment")),
        "published": analysis.published is not None,
        "redundancy": bool(analysis.redundancy.methods),
        "coverage": analysis.coverage is not None,
        "neighbours": analysis.neighbours is not None,
        "gradients": analysis.gradients is not None,
        **_paper_analyses(analysis),
        "front": analysis.front,
    }
    files = [layout.table(name)["csv"] for name, is_wanted in wanted.items() if is_wanted]
    for run in experiment.runs:
        files += [layout.fill(layout.CALIBRATION_CSV, run=run, method=name) for name in calibrated(experiment)]
    return files


def figures(experiment: Experiment) -> list[str]:
    """The figures that the experiment asks for."""
    analysis = experiment.analysis
    wanted = {
        "accuracy": True,
        "redundancy": bool(analysis.redundancy.methods),
        "coverage": analysis.coverage is not None,
        "neighbours": analysis.neighbours is not None,
        "gradients": analysis.gradients is not None,
        **_paper_analyses(analysis),
        "front": analysis.front,
    }
    files = [layout.figure(name) for name, is_wanted in wanted.items() if is_wanted]
    if analysis.pictures.cost:
        files.append(layout.figure("accuracy", folder="cost"))
    if analysis.steps is not None:
        files.append(layout.figure("steps", folder="cost"))
    for run in experiment.runs:
        files.append(layout.figure("training-losses", run))
        if analysis.pictures.contact_sheets:
            files += [layout.figure(f"images-{name}", run) for name in experiment.distilling]
        if analysis.neighbours is not None:
            files += [layout.figure(f"pairs-{name}", run) for name in experiment.distilling]
        if analysis.path is not None:
            figures = itertools.product(("path", "shifts"), analysis.path.methods)
            files += [layout.figure(f"{kind}-{name}", run) for kind, name in figures]
        for name in experiment.made_by("generate_increment"):
            files.append(layout.figure(f"increments-{name}", run))
        files += [layout.figure(f"calibration-{name}", run) for name in calibrated(experiment)]
    return [path for figure in files for path in figure.values()]


def receipts(experiment: Experiment) -> list[str]:
    """The receipt of each run whose histories are sent somewhere."""
    return [layout.fill(layout.TRACKED, run=run) for run in experiment.runs if experiment.tracking is not None]


def calibrated(experiment: Experiment) -> list[str]:
    """The methods whose guidance is calibrated."""
    incremental = experiment.made_by("generate_increment")
    return [name for name in incremental if experiment.method_of(name, LGD).calibrates]


def _paper_analyses(analysis: Analysis) -> dict[str, bool]:
    """Which analyses of figures 4 to 6 of arXiv 2604.00519 are wanted; each is a table and a figure."""
    names = ("incremental_dynamics", "learning_dynamics", "validity")
    return {name: getattr(analysis, name) is not None for name in names}


def note_rules(rules: dict[str, Any], results: Path) -> None:
    """Note for the report page which rules make it, by `snakemake_internals.rule_graph`; other runs note nothing.

    Where the note cannot be written, the page says that it is missing.
    """
    if "write_report" in rules:
        with contextlib.suppress(OSError):
            write_json(results / layout.RULES.removeprefix(layout.RESULTS), rules)
