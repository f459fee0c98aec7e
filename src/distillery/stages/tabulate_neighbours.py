"""Tabulate how near distilled images lie to training images, beside the distances of held-out real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the rows, and the network of the features."""

    methods: list[str]
    features: str
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        assert experiment.analysis.neighbours is not None
        features = experiment.analysis.neighbours.features
        return cls(methods=sorted(experiment.methods), features=features, about=experiment.about_data)


def run(
    settings: Settings, *, neighbours: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job
) -> None:
    """Write the table as CSV, Parquet and Markdown; among `neighbours` are those of the test images."""
    from distillery.report import neighbours as report
    from distillery.report import tables

    rows = tables.read_rows(neighbours, report.COLUMNS, made_by="measure_neighbours")
    table = report.neighbours_table(rows, settings.methods)
    text = report.neighbours_markdown(table, settings.features)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
