"""Collect all evaluations in one table: accuracy of each method, IPC and network, over seeds and students."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the rows, and the constants of protocols whose label is a digest."""

    methods: list[str]
    networks: list[str]
    abbreviated: dict[str, str] = Field({})
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        evaluation = experiment.evaluation
        return cls(
            methods=sorted(experiment.methods),
            networks=sorted(evaluation.networks),
            abbreviated=evaluation.abbreviated,
            about=experiment.tested(experiment.about_data),
        )


def run(
    settings: Settings, *, evaluations: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job
) -> None:
    """Write the table of accuracies as CSV, Parquet and Markdown."""
    from distillery.report import tables, words

    rows = tables.read_rows(evaluations, tables.ACCURACY, made_by="evaluate")
    table = tables.accuracy_table(rows, settings.methods, settings.networks)
    text = words.accuracy_markdown(table, settings.abbreviated, settings.about.split) + words.diverged_markdown(rows)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
