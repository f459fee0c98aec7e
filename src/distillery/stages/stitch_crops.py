"""Stitch the easiest crops of real images into images (RDED)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.methods.rded import RDED
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    seed: int
    stream: str
    method: RDED
    ipc: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        block = experiment.method_of(method, RDED).model_copy(update={"stream": None})
        return cls(seed=experiment.seed(run), stream=experiment.stream(method), method=block, ipc=int(ipc))


def run(settings: Settings, *, data: Input, reference: Input, images: Output, job: Job) -> None:
    """Training images and a reference network to `ipc` stitched images of each class, in the order slot, class."""
    from distillery.data.reading import ImageTable
    from distillery.selection.rded import rded_images
    from distillery.storage.images import write_images
    from distillery.students.networks import Classifier

    method = settings.method
    stitched = rded_images(
        ImageTable(data),
        settings.ipc,
        Classifier.load(reference, "train_reference").to(job.device),
        seed=settings.seed,
        key=(settings.seed, settings.stream, "rded"),
        factor=method.factor,
        crops=method.crops,
        images_per_class=method.images_per_class,
        scale=(method.scale[0], method.scale[1]),
    )
    write_images(images, stitched, job.provenance)
