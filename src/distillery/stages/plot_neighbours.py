"""Plot how near distilled images lie to training images, beside held-out real images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the lines, the network of the features, and the line below the figure."""

    methods: list[str]
    features: str
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        assert experiment.analysis.neighbours is not None
        features = experiment.analysis.neighbours.features
        return cls(methods=sorted(experiment.methods), features=features, about=experiment.about_data)


def run(settings: Settings, *, neighbours: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Draw the distribution of distances of each method, by features and by pixels."""
    from distillery.report import neighbours as report
    from distillery.report import style, tables

    rows = tables.read_rows(neighbours, report.COLUMNS, made_by="measure_neighbours")
    style.save(report.neighbours_figure(rows, settings.methods, settings.features, settings.about), png, svg)
