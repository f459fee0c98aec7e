"""Describe every training image by the last hidden layer of a reference network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """The name of the network, which comes as a file."""

    reference: str

    @classmethod
    def of(cls, experiment: Experiment, run: str, reference: str) -> Settings:
        return cls(reference=reference)


def run(settings: Settings, *, images: Input, reference: Input, features: Output, job: Job) -> None:
    """Images to one row each: `path`, `label` and `features`, the input of the last linear layer."""
    import numpy as np
    import pyarrow as pa

    from distillery.data.reading import ImageTable
    from distillery.storage.tables import write_table
    from distillery.students.features import features_of
    from distillery.students.networks import Classifier

    real = ImageTable(images)
    network = Classifier.load(reference, "train_reference").to(job.device)
    resume = job.resume(features)
    described = features_of(network, real, resume=resume).numpy().astype(np.float32)
    rows = pa.FixedSizeListArray.from_arrays(pa.array(described.reshape(-1)), described.shape[1])
    table = pa.table({"path": pa.array(real.paths()), "label": pa.array(real.labels), "features": rows})
    write_table(features, table, job.provenance)
    resume.finish()
