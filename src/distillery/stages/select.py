"""Select real images, class by class, in an order whose beginnings are the smaller sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.selection.settings import Choice
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """What the stage depends on."""

    seed: int
    choice: Choice
    ipc: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        """The part of an experiment that this stage reads."""
        block = {"seed": experiment.seed(run), "choice": experiment.methods[method], "ipc": int(ipc)}
        return cls.model_validate(block)


def run(settings: Settings, *, data: Input, features: Input | None = None, images: Output, job: Job) -> None:
    """Training images, and what a network sees in them, to `ipc` of each class, in the order slot, class."""
    from distillery.data.reading import ImageTable
    from distillery.selection.features import read_features
    from distillery.selection.orders import chosen_order
    from distillery.selection.random import ordered_by_slot
    from distillery.storage.images import ImageSet, write_images

    table = ImageTable(data)  # what is chosen is read, the rest may be larger than the memory
    real = ImageSet([], table.labels, table.classes, table.paths())
    described = read_features(features, real.paths) if features is not None else None
    orders = [
        chosen_order(settings.choice, real, label, settings.ipc, seed=settings.seed, features=described)
        for label in range(len(real.classes))
    ]
    write_images(images, ordered_by_slot(table, orders), job.provenance)
