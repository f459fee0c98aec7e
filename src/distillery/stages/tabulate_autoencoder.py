"""Tabulate the reconstruction of the test or validation images by the autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The origin of the table."""

    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(about=experiment.tested(experiment.about_data))


def run(settings: Settings, *, measured: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job) -> None:
    """Write the table of reconstructions as CSV, Parquet and Markdown."""
    import pandas as pd

    from distillery.errors import damaged
    from distillery.report import reconstruction, tables
    from distillery.storage.tables import read_table

    frames = []
    for path in measured:
        measurements = read_table(path, "measure_autoencoder")
        if measurements.column_names and not set(reconstruction.COLUMNS) <= set(measurements.column_names):
            raise damaged(path, "measure_autoencoder", "columns are missing")
        frames.append(measurements.select(reconstruction.COLUMNS).to_pandas().astype({"accuracy": float}))
    table = reconstruction.reconstruction_table(pd.concat(frames, ignore_index=True))
    text = reconstruction.reconstruction_markdown(table, settings.about.split)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
