"""Find the nearest training image of every test image: the distances that a set without copies has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        return cls(seed=experiment.seed(run))


def run(
    settings: Settings, *, data: Input, features: Input, reference: Input, test: Input, neighbours: Output, job: Job
) -> None:
    """Training images, their features and the test images to one row per test image and space.

    Test images are measured here; nothing is chosen by them.
    """
    import pyarrow as pa

    from distillery.analysis.neighbours import HELD_OUT, real_neighbours, rows_of
    from distillery.data.reading import ImageTable
    from distillery.selection.by_class import read_features
    from distillery.storage.tables import write_table
    from distillery.students.networks import Classifier

    real, held_out = ImageTable(data), ImageTable(test)
    network = Classifier.load(reference, "train_reference").to(job.device)
    found = real_neighbours(held_out, real, read_features(features, real.paths()), network)
    common = {"method": HELD_OUT, "seed": settings.seed, "ipc": 0}
    write_table(neighbours, pa.Table.from_pylist(rows_of(found, held_out, real, common)), job.provenance)
