"""Plot validity and student accuracy by strength of the guidance, and the strength that was chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The title."""

    method: str

    @classmethod
    def of(cls, experiment: Experiment, *, method: str, **wildcards: str) -> Settings:
        return cls(method=method)


def run(settings: Settings, *, table: Input, png: Output, svg: Output, job: Job) -> None:
    """Draw the table that `calibrate_guidance` made."""
    import json

    from distillery.report import figures
    from distillery.storage.tables import read_table

    calibration = read_table(table, made_by="calibrate_guidance")
    about = json.loads((calibration.schema.metadata or {}).get(b"distillery_calibration", b"{}"))
    figures.save(figures.calibration_figure(calibration.to_pandas(), about, settings.method), png, svg)
