"""Plot validity and student accuracy by strength of the guidance, and the strength that was chosen."""

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


def run(settings: Settings, *, table: Input, png: Output, svg: Output, job: Job) -> None:
    """Draw the table that `calibrate_guidance` made."""
    import json

    from distillery.report import figures, style
    from distillery.storage.tables import read_table

    calibration = read_table(table, made_by="calibrate_guidance")
    setting = json.loads((calibration.schema.metadata or {}).get(b"distillery_calibration", b"{}"))
    figure = figures.calibration_figure(calibration.to_pandas(), setting, settings.method, settings.about)
    style.save(figure, png, svg)
