"""Tabulate incremental dynamics: the spike of the loss and the test accuracy of each increment."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
            about=experiment.tested(experiment.about_data),
        )


def run(settings: Settings, *, dynamics: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job) -> None:
    """Write the table as CSV, Parquet and Markdown."""
    from distillery.report import incremental_dynamics as report
    from distillery.report import tables

    rows = tables.read_rows(dynamics, report.COLUMNS, made_by="measure_incremental_dynamics")
    table = report.incremental_table(rows, settings.methods, settings.baseline)
    notes = report.missing(rows, settings.methods, settings.baseline, settings.increment_size)
    text = report.incremental_markdown(table, settings.baseline, settings.epochs, notes, settings.about.split)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
