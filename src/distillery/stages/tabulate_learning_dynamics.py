"""Tabulate learning dynamics: shares of easy, informative and hard images, and divergences."""

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
    """The order of the rows, the method that others are compared with, and what the caption says."""

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
            about=experiment.about_data,
        )


def run(settings: Settings, *, shares: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job) -> None:
    """Write the table as CSV, Parquet and Markdown."""
    from distillery.report import learning_dynamics as report
    from distillery.report import tables

    rows = tables.read_rows(shares, report.SHARES, made_by="measure_learning_dynamics")
    table = report.learning_table(rows, settings.methods, settings.baseline)
    notes = report.missing(rows, settings.methods, settings.baseline)
    text = report.learning_markdown(table, settings.baseline, settings.epochs, settings.thresholds, settings.own, notes)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
