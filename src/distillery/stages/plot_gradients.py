"""Set the gradients that reach the latents of LD3M beside the published decay, as a table and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The line below the figure."""

    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(about=experiment.about_data)


def run(
    settings: Settings, *, norms: list[Input], csv: Output, markdown: Output, png: Output, svg: Output, job: Job
) -> None:
    """Join what `measure_gradients` wrote for every seed, and draw it."""
    from distillery.report import gradients, style, tables
    from distillery.storage.atomic import write_bytes

    rows = tables.read_rows(norms, gradients.COLUMNS, made_by="measure_gradients")
    table = gradients.gradient_table(rows)
    write_bytes(csv, gradients.csv_bytes(tables.with_origin(table, settings.about)))
    write_bytes(markdown, tables.signed(gradients.gradient_markdown(table), settings.about).encode())
    style.save(gradients.gradient_figure(table, settings.about), png, svg)
