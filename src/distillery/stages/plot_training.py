"""Plot the training losses of a run, a panel per model, and one per network and size of the evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """Titles of the panels, and names of the trainings in them, in the order of the histories."""

    seed: int
    students: int
    about: About
    panels: list[str]
    names: list[str]

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        from distillery.plan.trainings import trainings

        rows = trainings(experiment, run)
        return cls(
            seed=experiment.seed(run),
            students=experiment.evaluation.students,
            about=experiment.about,
            panels=[row.panel for row in rows],
            names=[row.name for row in rows],
        )


def run(settings: Settings, *, histories: list[Input], png: Output, svg: Output, job: Job) -> None:
    """Histories to a sheet of panels."""
    from distillery.report.style import save
    from distillery.report.training import training_figure
    from distillery.storage.tables import read_table

    if len(histories) != len(settings.panels):
        raise BadInput(f"{len(settings.panels)} panels are named for {len(histories)} histories; name one for each")
    tables = [read_table(path, "the training beside it").to_pandas() for path in histories]
    panels: dict[str, list[tuple[str, Any]]] = {}
    for panel, name, table in zip(settings.panels, settings.names, tables, strict=True):
        panels.setdefault(panel, []).append((name, table))
    save(training_figure(panels, settings.about, settings.seed, settings.students), png, svg)
