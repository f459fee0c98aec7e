"""Set our accuracies beside published ones of the same method, data set, size, network and protocol."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from distillery.job import Input, Job, Output
from distillery.report import PUBLISHED
from distillery.report.about import About
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The published names of our data set and methods, and the digest of the published numbers."""

    dataset: str
    methods: dict[str, str]
    networks: dict[str, list[str]] = Field({})
    full: str | None
    resolution: int
    numbers: str
    about: About

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Networks where some are named: the table of all networks is what it was before."""
        return {name: value for name, value in handler(self).items() if name != "networks" or value}

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        published = experiment.analysis.published
        assert published is not None
        return cls(
            dataset=published.dataset,
            methods=published.methods,
            networks=published.networks,
            full=experiment.first_of("full"),
            resolution=experiment.dataset.resolution,
            numbers=hashlib.sha256(PUBLISHED.read_bytes()).hexdigest()[:16],
            about=experiment.about_data,
        )


def run(settings: Settings, *, accuracy: Input, csv: Output, parquet: Output, markdown: Output, job: Job) -> None:
    """Write the comparison as CSV, Parquet and Markdown."""
    from distillery.report import tables
    from distillery.report.published import beside_published, published_markdown
    from distillery.storage.tables import read_table

    ours = read_table(accuracy, "tabulate_accuracy").to_pandas()
    for method, networks in settings.networks.items():
        ours = ours[(ours["method"] != method) | ours["network"].isin(networks)].reset_index(drop=True)
    ours["ipc_label"] = ours["ipc"].astype(str).where(ours["method"] != settings.full, "full")
    ours["resolution"] = settings.resolution
    table = beside_published(ours, dataset=settings.dataset, names=settings.methods)
    tables.write_formats(table, published_markdown(table), csv, parquet, markdown, job.provenance, settings.about)
