"""Open a distilled set that was made elsewhere: images of one size, with labels and slots of this experiment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from distillery.data.arrays import Normalization
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
    labels: str | None = None
    normalization: Normalization | None = None
    ipc: int
    dataset: Dataset

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        external = experiment.method_of(method, External)
        seed = experiment.seed(run)
        return cls(
            name=method,
            images=place_of(external.images, int(ipc), seed),
            labels=place_of(external.labels, int(ipc), seed) if external.labels else None,
            normalization=external.normalization,
            ipc=int(ipc),
            dataset=experiment.dataset.as_stored,
        )


def run(
    settings: Settings, *, data: Input, test: Input, validation: Input | None = None, images: Output, job: Job
) -> None:
    """A set from elsewhere to `ipc` images of each class of the training images, in the order slot, class.

    A set that holds test or validation images is refused. Soft labels become a column, `soft_label`, and the labels
    their argmax.
    """
    from itertools import chain

    import numpy as np

    from distillery.data.arrays import is_array, read_arrays
    from distillery.data.external import read_external, read_external_arrays, refuse_test_images, source_at
    from distillery.data.reading import ImageTable
    from distillery.data.sources import passed_over
    from distillery.storage.images import SOFT_LABEL, ImageSet, write_images

    classes, as_tested = ImageTable(data).classes, None
    resample = settings.dataset.resample
    # Test images with a filter of their own: what is compared with them is resized by it too.
    other = settings.dataset.model_copy(update={"resample": resample.model_copy(update={"train": resample.test})})
    key = f"methods.{settings.name}"
    columns = {"slot": np.repeat(np.arange(settings.ipc), len(classes))}
    if is_array(settings.images) and settings.normalization is not None:
        arrays = read_arrays(key, settings.images, settings.labels, settings.normalization, classes)
        rows, order = read_external_arrays(key, arrays, classes, settings.ipc, settings.dataset)
        if resample.test != resample.train:
            as_tested = read_external_arrays(key, arrays, classes, settings.ipc, other)[0]
        if arrays.clipped:
            print(f"import_images: {arrays.clipped:.1%} of the values were clipped to 0..255", file=sys.stderr)
        if arrays.soft is not None:
            columns[SOFT_LABEL] = arrays.soft[order]
            print(
                "import_images: soft labels are used by protocols with labels: set; others take the largest",
                file=sys.stderr,
            )
    else:
        rows = read_external(key, settings.images, classes, settings.ipc, settings.dataset)
        if resample.test != resample.train:
            as_tested = read_external(key, settings.images, classes, settings.ipc, other)
        if beside := passed_over(source_at(settings.images)):
            print(f"import_images: passed over: {beside}", file=sys.stderr)
    tables = [ImageTable(path) for path in (test, validation) if path is not None]
    batches = chain.from_iterable(table.batches(256, workers=job.cores) for table in tables)
    tested = (image for batch, _ in batches for image in batch.numpy())
    refuse_test_images(key, rows, tested, settings.dataset.max_leaked, as_tested)
    labels, ids, contents = zip(*rows, strict=True)
    write_images(images, ImageSet(list(contents), np.array(labels), classes, list(ids), columns), job.provenance)
