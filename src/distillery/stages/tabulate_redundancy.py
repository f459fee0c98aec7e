"""Tabulate how much the increments of each method repeat each other, and by how much less than the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the rows, and the method that reductions are measured against."""

    methods: list[str]
    baseline: str | None
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        baseline = experiment.analysis.redundancy.baseline
        return cls(methods=sorted(experiment.methods), baseline=baseline, about=experiment.about_data)


def run(settings: Settings, *, matrices: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job) -> None:
    """Write the table of redundancies as CSV, Parquet and Markdown."""
    from distillery.report import tables, words

    rows = tables.read_rows(matrices, tables.REDUNDANCY, made_by="measure_redundancy")
    table = tables.redundancy_table(rows, settings.methods, settings.baseline)
    text = words.redundancy_markdown(table, settings.baseline)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
