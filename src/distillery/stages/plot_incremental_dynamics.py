"""Plot incremental dynamics: the loss over the increments with each spike, and the test accuracy after each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the panels, and what the line below says."""

    methods: list[str]
    baseline: str | None
    increment_size: int
    epochs: int
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        block = experiment.analysis.incremental_dynamics
        assert block is not None
        return cls(
            methods=list(dict.fromkeys(block.methods)),
            baseline=block.baseline,
            increment_size=block.increment_size,
            epochs=block.epochs,
            about=experiment.tested(experiment.about),
        )


def run(settings: Settings, *, dynamics: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Draw a panel per method, and one of accuracies."""
    from distillery.report import incremental_dynamics as report
    from distillery.report import style, tables

    rows = tables.read_rows(dynamics, report.COLUMNS, made_by="measure_incremental_dynamics")
    notes = report.missing(rows, settings.methods, settings.baseline, settings.increment_size)
    style.save(report.incremental_figure(rows, settings.methods, settings.epochs, notes, settings.about), png, svg)
