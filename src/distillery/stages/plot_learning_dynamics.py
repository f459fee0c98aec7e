"""Plot learning dynamics: the density of each set over mean and deviation of the probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.analysis.settings import Thresholds
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
    epochs: int
    thresholds: Thresholds
    own: bool
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        block = experiment.analysis.learning_dynamics
        assert block is not None
        return cls(
            methods=list(dict.fromkeys(block.methods)),
            baseline=block.baseline,
            epochs=block.epochs,
            thresholds=block.thresholds,
            own=block.train_on == "own",
            about=experiment.about,
        )


def run(settings: Settings, *, dynamics: list[Input], shares: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Draw a panel per set, the original one first."""
    from distillery.report import learning_dynamics as report
    from distillery.report import style, tables

    rows = tables.read_rows(dynamics, report.DYNAMICS, made_by="measure_learning_dynamics")
    of_sets = tables.read_rows(shares, report.SHARES, made_by="measure_learning_dynamics")
    figure = report.learning_figure(
        rows,
        of_sets,
        settings.methods,
        settings.epochs,
        settings.thresholds,
        settings.own,
        report.missing(of_sets, settings.methods, settings.baseline),
        settings.about,
    )
    style.save(figure, png, svg)
