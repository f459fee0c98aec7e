"""Make the training, validation and test images of one size and colour from a source of labelled images.

An image that cannot be used is left out and named, with the reason, in the table of rejected images. A picture that
occurs more than once is named in the table of duplicates.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distillery.data.settings import Dataset
from distillery.job import Job, Log, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    dataset: Dataset

    @classmethod
    def of(cls, experiment: Experiment, **wildcards: str) -> Settings:
        return cls(dataset=experiment.dataset.as_stored)


def run(
    settings: Settings,
    *,
    train: Output,
    test: Output,
    validation: Output | None = None,
    rejected: Log,
    duplicates: Log,
    job: Job,
) -> None:
    """Write the image table of each split, and the tables of what was left out and of what occurs twice.

    `validation` is written where the data set has validation images.
    """
    from distillery.data.ingest import ingest_images

    tally = ingest_images(
        settings.dataset,
        train=train,
        test=test,
        rejected=rejected,
        duplicates=duplicates,
        validation=validation,
        provenance=job.provenance,
        workers=job.cores,
    )
    if tally.passed_over:
        print(f"ingest: passed over: {tally.passed_over}", file=sys.stderr)
    if any(tally.duplicates.values()):
        counts = ", ".join(f"{number} in {kind}" for kind, number in tally.duplicates.items())
        print(f"ingest: pictures that occur more than once: {counts}; {duplicates} names them", file=sys.stderr)
    validated = f"{tally.validation} validation images, " if tally.validation else ""
    print(
        f"ingest: {tally.train} training images, {validated}{tally.test} test images, {tally.rejected} rejected",
        file=sys.stderr,
    )
