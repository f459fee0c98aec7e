"""Select real images, class by class, in an order whose beginnings are the smaller sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.methods.selection import AnySelection, Selection
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    seed: int
    choice: AnySelection
    ipc: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        return cls(seed=experiment.seed(run), choice=experiment.method_of(method, Selection), ipc=int(ipc))


def run(settings: Settings, *, data: Input, features: Input | None = None, images: Output, job: Job) -> None:
    """Training images, and the features of a network, to `ipc` of each class, in the order slot, class."""
    from distillery.data.reading import ImageTable
    from distillery.storage.images import write_images

    selected = settings.choice.select(ImageTable(data), settings.ipc, settings.seed, features)
    write_images(images, selected, job.provenance)
