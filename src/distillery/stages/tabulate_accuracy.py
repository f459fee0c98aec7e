"""Collect all evaluations in one table: accuracy of each method, IPC and network, over seeds and students."""

from __future__ import annotations

from distillery.job import Experiment, Input, Job, Output
from distillery.settings import Block

COMPUTES = False


class Settings(Block):
    """The order of the rows."""

    methods: list[str]
    networks: list[str]

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(methods=sorted(experiment.methods), networks=sorted(experiment.evaluation.networks))


def run(
    settings: Settings, *, evaluations: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job
) -> None:
    """Write the table of accuracies as CSV, Parquet and Markdown."""
    from distillery.report import tables

    rows = tables.read_rows(evaluations, tables.ACCURACY, made_by="evaluate")
    table = tables.accuracy_table(rows, settings.methods, settings.networks)
    text = tables.accuracy_markdown(table) + tables.diverged_markdown(rows)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance)
