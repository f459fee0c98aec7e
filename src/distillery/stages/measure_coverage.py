"""Measure coverage: how much of the real set lies near a distilled one, in the features of a reference network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    method: str
    ipc: int
    k: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        coverage = experiment.analysis.coverage
        assert coverage is not None
        return cls(seed=experiment.seed(run), method=method, ipc=int(ipc), k=coverage.k)


def run(
    settings: Settings, *, data: Input, features: Input, reference: Input, images: Input, coverage: Output, job: Job
) -> None:
    """Real features, a reference and a distilled set to one row: precision, recall, density, coverage."""
    from dataclasses import asdict

    import pyarrow as pa

    from distillery.analysis.coverage import coverage_of
    from distillery.data.reading import ImageTable
    from distillery.selection.by_class import read_features
    from distillery.storage.tables import write_table
    from distillery.students.features import features_of
    from distillery.students.networks import Classifier

    real = read_features(features, ImageTable(data).paths())
    network = Classifier.load(reference, "train_reference").to(job.device)
    distilled = features_of(network, ImageTable(images, "collect")).numpy()
    shares = asdict(coverage_of(real, distilled, settings.k))
    row = {"method": settings.method, "seed": settings.seed, "ipc": settings.ipc, **shares}
    row |= {"real": len(real), "distilled": len(distilled)}
    write_table(coverage, pa.Table.from_pylist([row]), job.provenance)
