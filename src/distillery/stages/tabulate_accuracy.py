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
    from distillery.storage.atomic import write_bytes
    from distillery.storage.tables import write_table

    rows = tables.read_rows(evaluations, tables.ACCURACY, made_by="evaluate")
    table = tables.accuracy_table(rows, settings.methods, settings.networks)
    write_bytes(csv, tables.csv_bytes(table))
    write_bytes(markdown, (tables.accuracy_markdown(table) + tables.diverged_markdown(rows)).encode())
    write_table(parquet, tables.arrow_table(table), job.provenance)
