"""Plot accuracy against the cost of making the sets, from the records that the jobs of this run left.

Costs are measured times: they differ from run to run, and so does this figure. It lies among the records, which the
promise of equal bytes leaves out, and is drawn again when the table of accuracies changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The size of the sets, the methods with the jobs that each shares with others, and the line below."""

    ipc: int
    seeds: int
    shared: dict[str, list[str]]
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(
            ipc=max(experiment.ipc),
            seeds=len(experiment.seeds),
            shared={name: experiment.shared_jobs(name) for name in experiment.distilling},
            about=experiment.tested(experiment.about),
        )


def run(settings: Settings, *, accuracy: Input, png: Output, svg: Output, csv: Output, job: Job) -> None:
    """Draw the accuracy of the largest sets against GPU-hours, or core-hours where no job had a card."""
    from distillery.cost import named_records
    from distillery.report import costs, style, tables
    from distillery.storage.atomic import write_bytes
    from distillery.storage.tables import read_table

    accuracies = read_table(accuracy, made_by="tabulate_accuracy").to_pandas()
    records = named_records(png.parent.parent)
    table = costs.cost_table(accuracies, records, settings.shared, settings.ipc, settings.seeds)
    write_bytes(csv, tables.csv_bytes(tables.with_origin(table, settings.about)))
    style.save(costs.cost_figure(table, settings.ipc, settings.seeds, settings.about), png, svg)
