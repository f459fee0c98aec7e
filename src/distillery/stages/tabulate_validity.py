"""Tabulate validity: what student and reference say of candidates and of chosen ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.job import Input, Job, Output
from distillery.methods.lgd import LGD
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The order of the rows, the weight of each method's reference term, and the judge."""

    methods: list[str]
    baseline: str | None
    weights: dict[str, float | Literal["auto"]]
    judge: str | None
    about: About

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        block = experiment.analysis.validity
        assert block is not None
        methods = list(dict.fromkeys(block.methods))
        return cls(
            methods=methods,
            baseline=block.baseline,
            weights={name: experiment.method_of(name, LGD).reference_weight for name in methods},
            judge=block.judge,
            about=experiment.about_data,
        )


def run(settings: Settings, *, validity: list[Input], csv: Output, parquet: Output, markdown: Output, job: Job) -> None:
    """Write the table as CSV, Parquet and Markdown."""
    from distillery.report import tables
    from distillery.report import validity as report

    rows = tables.read_rows(validity, report.COLUMNS, made_by="measure_validity")
    table = report.validity_table(rows, settings.methods, settings.baseline)
    notes = report.missing(rows, settings.methods, settings.baseline, settings.weights, settings.judge)
    text = report.validity_markdown(table, settings.baseline, settings.judge, notes)
    tables.write_formats(table, text, csv, parquet, markdown, job.provenance, settings.about)
