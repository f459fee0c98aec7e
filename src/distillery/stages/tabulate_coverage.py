"""Tabulate how much of the real set the distilled sets reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the rows, and the number of neighbours."""

    methods: list[str]
    k: int
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        assert experiment.analysis.coverage is not None
        k = experiment.analysis.coverage.k
        return cls(methods=sorted(experiment.methods), k=k, about=experiment.about_data)


def run(
    settings: Settings, *, coverages: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job
) -> None:
    """Write the table of coverages as CSV, Parquet and Markdown."""
    from distillery.report import tables, words

    rows = tables.read_rows(coverages, tables.COVERAGE, made_by="measure_coverage")
    table = tables.coverage_table(rows, settings.methods)
    tables.write_formats(
        table, words.coverage_markdown(table, settings.k), csv, parquet, markdown, job.provenance, settings.about
    )
