"""Show the distilled images of a method that lie nearest to a training image, each beside that image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """How many pairs of each space, the title, and the line below."""

    method: str
    ipc: int
    pairs: int
    features: str
    about: About

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str) -> Settings:
        neighbours = experiment.analysis.neighbours
        assert neighbours is not None
        return cls(
            method=method,
            ipc=experiment.neighbours_ipc,
            pairs=neighbours.pairs,
            features=neighbours.features,
            about=experiment.about_data,
        )


def run(
    settings: Settings,
    *,
    data: Input,
    images: Input,
    neighbours: Input,
    held_out: Input,
    png: Output,
    svg: Output,
    job: Job,
) -> None:
    """Draw the closest pairs by features and by pixels; the distances of test images are their scale."""
    from distillery.data.reading import ImageTable
    from distillery.report import neighbours as report
    from distillery.report import style, tables

    rows = tables.read_rows([neighbours, held_out], report.COLUMNS, made_by="measure_neighbours")
    figure = report.pairs_figure(
        rows,
        ImageTable(images, "collect"),
        ImageTable(data),
        title=f"{settings.method}, {settings.ipc} images per class: nearest training images",
        pairs=settings.pairs,
        features=settings.features,
        about=settings.about,
    )
    style.save(figure, png, svg)
