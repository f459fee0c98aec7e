"""Select real images, class by class, in an order whose beginnings are the smaller sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.selection.settings import Herding, KCenter, Random
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """What the stage depends on."""

    seed: int
    choice: Random | Herding | KCenter
    ipc: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        """The part of an experiment that this stage reads."""
        choice = experiment.methods[method]
        assert isinstance(choice, Random | Herding | KCenter)
        return cls(seed=experiment.seed(run), choice=choice, ipc=int(ipc))


def run(settings: Settings, *, data: Input, features: Input | None = None, images: Output, job: Job) -> None:
    """Training images, and what a network sees in them, to `ipc` of each class, in the order slot, class."""
    from distillery.data.reading import ImageTable
    from distillery.selection.by_class import order_of_class
    from distillery.selection.features import read_features
    from distillery.selection.herding import herding_order
    from distillery.selection.k_center import k_center_order
    from distillery.selection.random import ordered_by_slot, random_order
    from distillery.storage.images import ImageSet, write_images

    table = ImageTable(data)  # what is chosen is read, the rest may be larger than the memory
    real = ImageSet([], table.labels, table.classes, table.paths())
    choice, count = settings.choice, settings.ipc
    described = read_features(features, real.paths) if features is not None else None

    def order(label: int) -> list[int]:
        if isinstance(choice, Random):
            return random_order(real, label, count, settings.seed)
        assert described is not None
        if isinstance(choice, Herding):
            return order_of_class(
                real, label, count, lambda rows: herding_order(described[rows], count, normalise=choice.normalise)
            )

        def farthest_first(rows):  # type: ignore[no-untyped-def]
            drawn = random_order(real, label, 1, settings.seed) if choice.first == "random" else []
            start = rows.tolist().index(drawn[0]) if drawn else None
            return k_center_order(described[rows], count, metric=choice.metric, start=start)

        return order_of_class(real, label, count, farthest_first)

    orders = [order(label) for label in range(len(real.classes))]
    write_images(images, ordered_by_slot(table, orders), job.provenance)
