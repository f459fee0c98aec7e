"""Select real images, class by class, in an order whose beginnings are the smaller sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """What the stage depends on."""

    seed: int
    kind: Literal["random"]
    ipc: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        """The part of an experiment that this stage reads."""
        kind = experiment.methods[method].kind
        assert kind == "random"
        return cls(seed=experiment.seed(run), kind=kind, ipc=int(ipc))


def run(settings: Settings, *, data: Input, images: Output, job: Job) -> None:
    """Training images to `ipc` of each class, in the order slot, class."""
    from distillery.artifacts import read_images, write_images
    from distillery.selection.random import ordered_by_slot, random_order

    real = read_images(data, "ingest")
    orders = [random_order(real, label, settings.ipc, settings.seed) for label in range(len(real.classes))]
    write_images(images, ordered_by_slot(real, orders), job.provenance)
