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
    """The published names of our data set and methods, and the digest of the published numbers.

    Attributes:
        networks: method -> the networks that are compared, of methods where these are not all.
        protocols: label -> its preset, of protocols that differ from it by their teacher alone.
    """

    dataset: str
    methods: dict[str, str]
    networks: dict[str, list[str]] = Field({})
    protocols: dict[str, str] = Field({})
    full: str | None
    resolution: int
    numbers: str
    about: About

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without networks and protocols where there are none: such a table is what it was before."""
        absent = {name for name in ("networks", "protocols") if not getattr(self, name)}
        return {name: value for name, value in handler(self).items() if name not in absent}

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        published = experiment.analysis.published
        assert published is not None
        return cls(
            dataset=published.dataset,
            methods=published.methods,
            networks=published.networks,
            protocols={
                protocol.label: protocol.preset
                for protocol in experiment.evaluation.protocols
                if protocol.label != protocol.preset and protocol.unmodified(experiment.classes)
            },
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
    table = beside_published(ours, dataset=settings.dataset, names=settings.methods, presets=settings.protocols)
    tables.write_formats(table, published_markdown(table), csv, parquet, markdown, job.provenance, settings.about)
