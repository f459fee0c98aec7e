"""Plot how much of the real set the distilled sets reach: a panel per measure, a line per method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the methods, the measurement, and the line below the figure."""

    methods: list[str]
    k: int
    features: str
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        coverage = experiment.analysis.coverage
        assert coverage is not None
        return cls(
            methods=sorted(experiment.methods), k=coverage.k, features=coverage.features, about=experiment.about_data
        )


def run(settings: Settings, *, coverages: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Draw mean and spread over seeds."""
    from distillery.report import style, tables
    from distillery.report.coverage import coverage_figure

    rows = tables.read_rows(coverages, tables.COVERAGE, made_by="measure_coverage")
    table = tables.coverage_table(rows, settings.methods)
    style.save(coverage_figure(table, settings.k, settings.features, settings.about), png, svg)
