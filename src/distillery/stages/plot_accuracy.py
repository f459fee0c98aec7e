"""Plot accuracy against images per class: a panel per network, a line per method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of lines and panels, and the line below them."""

    methods: list[str]
    networks: list[str]
    full: str | None
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(
            methods=sorted(experiment.methods),
            networks=sorted(experiment.evaluation.networks),
            full=experiment.first_of("full"),
            about=experiment.tested(experiment.about_data),
        )


def run(
    settings: Settings, *, table: Input, published: Input | None = None, png: Output, svg: Output, job: Job
) -> None:
    """Draw the table that `tabulate_accuracy` made, and the numbers that `compare_published` set beside it."""
    from distillery.report import figures, style
    from distillery.storage.tables import read_table

    accuracies = read_table(table, made_by="tabulate_accuracy").to_pandas()
    theirs = read_table(published, made_by="compare_published").to_pandas() if published is not None else None
    order = (settings.methods, settings.networks)
    style.save(figures.accuracy_figure(accuracies, *order, settings.about, settings.full, theirs), png, svg)
