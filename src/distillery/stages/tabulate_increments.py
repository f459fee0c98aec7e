"""List each increment with the accuracy of the student before it and of the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """Whose increments the files are, file by file: method, experiment seed and number."""

    increments: list[list[str | int]]
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(
            about=experiment.about_data,
            increments=[
                [method, seed, k]
                for seed in experiment.seeds
                for method in sorted(experiment.made_by("generate_increment"))
                for k in range(1, experiment.increments(method) + 1)
            ],
        )


def run(
    settings: Settings, *, increments: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job
) -> None:
    """Image sets of increments to one row each: accuracy of student and reference on it, and mean learnability."""
    import pandas as pd

    from distillery.report import tables, words
    from distillery.storage.images import read_images

    rows = []
    for (method, seed, k), path in zip(settings.increments, increments, strict=True):
        columns = read_images(path, "select_increment").columns
        rows.append({"method": method, "seed": seed, "increment": k, **tables.increment_row(columns)})
    table = pd.DataFrame(rows)
    tables.write_formats(
        table, words.increments_markdown(table), csv, parquet, markdown, job.provenance, settings.about
    )
