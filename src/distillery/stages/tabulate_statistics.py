"""Tabulate the statistics of each accuracy: spread, paired differences, recovery scores, sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distillery.job import Input, Job, Output
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """Which methods are the yardsticks, which protocols have soft labels, and the order of the rows.

    Attributes:
        plain: label of a protocol -> that of the same one without augmentation.
    """

    baseline: str | None
    second: str | None
    random: str | None
    full: str | None
    soft: list[str]
    methods: list[str]
    networks: list[str]
    about: About
    plain: dict[str, str] = Field({})

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        evaluation = experiment.evaluation
        first = {kind: experiment.first_of(kind) for kind in ("random", "full")}
        baseline = evaluation.baseline or first["random"]
        others = (experiment.analysis.redundancy.baseline, first["random"])
        network, ipc = evaluation.networks[0], experiment.ipc[0]
        return cls(
            baseline=baseline,
            second=next((name for name in others if name not in (None, baseline)), None),
            **first,
            soft=sorted(p.label for p in evaluation.protocols if experiment.recipe(p, network, ipc).labels == "soft"),
            plain=evaluation.plain_of,
            methods=sorted(experiment.methods),
            networks=sorted(evaluation.networks),
            about=experiment.tested(experiment.about_data),
        )


def run(
    settings: Settings, *, evaluations: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job
) -> None:
    """Write the table of statistics as CSV, Parquet and Markdown."""
    from distillery.report import tables
    from distillery.report.statistics import statistics_markdown, statistics_table

    rows = tables.read_rows(evaluations, tables.EVALUATION, made_by="evaluate")
    cells = tables.accuracy_table(rows, settings.methods, settings.networks)
    order = list(cells[["method", "ipc", "network", "protocol"]].itertuples(index=False, name=None))
    yardsticks = settings.model_dump(include={"baseline", "second", "random", "full", "soft", "plain"})
    table = statistics_table(rows, order=order, **yardsticks)
    text = statistics_markdown(table, settings.about.split)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
