"""Tabulate how much the increments of each method repeat each other, and by how much less than the baseline's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the rows, and the method that reductions are measured against."""

    methods: list[str]
    baseline: str | None

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(methods=sorted(experiment.methods), baseline=experiment.analysis.redundancy.baseline)


def run(settings: Settings, *, matrices: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job) -> None:
    """Write the table of redundancies as CSV, Parquet and Markdown."""
    from distillery.report import tables

    rows = tables.read_rows(matrices, tables.REDUNDANCY, made_by="measure_redundancy")
    table = tables.redundancy_table(rows, settings.methods, settings.baseline)
    text = tables.redundancy_markdown(table, settings.baseline)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance)
