"""Plot the redundancy matrix of each method: which increments teach which others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the matrices, the method that reductions are measured against, and the methods with random parts."""

    methods: list[str]
    baseline: str | None
    ipc: int
    drawn: list[str]
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(
            methods=sorted(experiment.methods),
            baseline=experiment.analysis.redundancy.baseline,
            ipc=experiment.redundancy_ipc,
            drawn=sorted(name for name, method in experiment.methods.items() if not method.incremental),
            about=experiment.about,
        )


def run(settings: Settings, *, matrices: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Draw a heatmap per method, the baseline first."""
    from distillery.report import figures, style, tables

    rows = tables.read_rows(matrices, tables.REDUNDANCY, made_by="measure_redundancy")
    order = (settings.methods, settings.baseline, settings.about)
    style.save(figures.redundancy_figure(rows, *order, settings.ipc, settings.drawn), png, svg)
