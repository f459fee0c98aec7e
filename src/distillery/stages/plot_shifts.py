"""Plot how far each guidance moves a sample at each step, and whether guidances pull the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The title, and the line below."""

    method: str
    about: About

    @classmethod
    def of(cls, experiment: Experiment, *, method: str, **wildcards: str) -> Settings:
        return cls(method=method, about=experiment.about_data)


def run(settings: Settings, *, shifts: Input, png: Output, svg: Output, job: Job) -> None:
    """Draw the table that `trace_sample` made."""
    from distillery.report import style
    from distillery.report.path import shifts_figure
    from distillery.storage.tables import read_table

    table = read_table(shifts, "trace_sample").to_pandas()
    style.save(shifts_figure(table, settings.method, settings.about), png, svg)
