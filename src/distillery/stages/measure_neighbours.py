"""Find the nearest training image of every image of a distilled set, by the features of a network and by pixels."""

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

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str) -> Settings:
        return cls(seed=experiment.seed(run), method=method, ipc=experiment.neighbours_ipc)


def run(
    settings: Settings, *, data: Input, features: Input, reference: Input, images: Input, neighbours: Output, job: Job
) -> None:
    """Training images, their features and a set to one row per image and space: its nearest training image."""
    import pyarrow as pa

    from distillery.analysis.neighbours import real_neighbours, rows_of
    from distillery.data.reading import ImageTable
    from distillery.selection.by_class import read_features
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier

    real, distilled = ImageTable(data), ImageTable(images, "collect")
    network = Classifier.load(reference, "train_reference").to(job.device)
    found = real_neighbours(distilled, real, read_features(features, real.paths()), network)
    common = {"method": settings.method, "seed": settings.seed, "ipc": settings.ipc}
    write_table(neighbours, pa.Table.from_pylist(rows_of(found, distilled, real, common)), job.provenance)
