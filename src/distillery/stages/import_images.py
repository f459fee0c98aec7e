"""Open a distilled set that was made elsewhere: images of one size, with labels and slots of this experiment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distillery.data.external import place_of
from distillery.data.settings import Dataset
from distillery.job import Input, Job, Output
from distillery.methods.external import External
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    name: str
    images: str
    ipc: int
    dataset: Dataset

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        external = experiment.method_of(method, External)
        place = place_of(external.images, int(ipc), experiment.seed(run))
        return cls(name=method, images=place, ipc=int(ipc), dataset=experiment.dataset)


def run(settings: Settings, *, data: Input, test: Input, images: Output, job: Job) -> None:
    """A folder or a Parquet file to `ipc` images of each class of the training images, in the order slot, class.

    A set that holds test images is refused.
    """
    import numpy as np

    from distillery.data.external import read_external, refuse_test_images, source_at
    from distillery.data.reading import ImageTable
    from distillery.data.sources import passed_over
    from distillery.storage.images import ImageSet, write_images

    classes = ImageTable(data).classes
    key = f"methods.{settings.name}"
    rows = read_external(key, settings.images, classes, settings.ipc, settings.dataset)
    tests = (image for batch, _ in ImageTable(test).batches(256, workers=job.cores) for image in batch.numpy())
    refuse_test_images(key, rows, tests, settings.dataset.max_leaked)
    if beside := passed_over(source_at(settings.images)):
        print(f"import_images: passed over: {beside}", file=sys.stderr)
    labels, ids, contents = zip(*rows, strict=True)
    columns = {"slot": np.repeat(np.arange(settings.ipc), len(classes))}
    write_images(images, ImageSet(list(contents), np.array(labels), classes, list(ids), columns), job.provenance)
