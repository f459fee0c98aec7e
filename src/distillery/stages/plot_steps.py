"""Plot accuracy, time and memory of LD3M over the steps of its chain, from the records that the jobs of this run left.

Costs are measured times, as in `plot_cost`: this figure lies among the records, and differs from run to run.
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
    """The size of the sets, the methods with the steps of their chains, and the line below."""

    ipc: int
    seeds: int
    steps: dict[str, int]
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(
            ipc=min(experiment.ipc),
            seeds=len(experiment.seeds),
            steps=experiment.chain_steps,
            about=experiment.tested(experiment.about),
        )


def run(settings: Settings, *, accuracy: Input, png: Output, svg: Output, csv: Output, job: Job) -> None:
    """Draw accuracy, hours and memory of methods over the steps of their chains, beside what was published."""
    from distillery.cost import named_records
    from distillery.report import chain_steps, style, tables
    from distillery.storage.atomic import write_bytes
    from distillery.storage.tables import read_table

    accuracies = read_table(accuracy, made_by="tabulate_accuracy").to_pandas()
    records = named_records(png.parent.parent)
    table = chain_steps.steps_table(accuracies, records, settings.steps, settings.ipc, settings.seeds)
    write_bytes(csv, tables.csv_bytes(tables.with_origin(table, settings.about)))
    style.save(chain_steps.steps_figure(table, settings.about), png, svg)
