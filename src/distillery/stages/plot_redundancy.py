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
    """The order of the matrices, and the method that reductions are measured against."""

    methods: list[str]
    baseline: str | None
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        baseline = experiment.analysis.redundancy.baseline
        return cls(methods=sorted(experiment.methods), baseline=baseline, about=experiment.about)


def run(settings: Settings, *, matrices: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Draw a heatmap per method, the baseline first."""
    from distillery.report import figures, style, tables

    rows = tables.read_rows(matrices, tables.REDUNDANCY, made_by="measure_redundancy")
    style.save(figures.redundancy_figure(rows, settings.methods, settings.baseline, settings.about), png, svg)
