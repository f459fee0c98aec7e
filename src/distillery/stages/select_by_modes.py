"""Select the real images that are nearest to the modes of their class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.methods.mode_images import ModeImages
from distillery.settings import Block, Count

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    ipc: int
    pool: Count | None

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        return cls(ipc=int(ipc), pool=experiment.method_of(method, ModeImages).modes.pool)


def run(settings: Settings, *, data: Input, latents: list[Input], modes: Input, images: Output, job: Job) -> None:
    """Training images, their latents and modes to `ipc` images of each class, in the order slot, class.

    The image of slot j is the nearest to mode j that no slot before it has.
    """
    import numpy as np
    import torch

    from distillery.data.reading import ImageTable
    from distillery.diffusion.latents import LatentCache
    from distillery.guidance.mode_discovery import nearest_latents, read_modes
    from distillery.selection.random import ordered_by_slot
    from distillery.storage.images import write_images

    table, cache = ImageTable(data), LatentCache(latents)
    if cache.classes != table.classes or not np.array_equal(cache.labels.numpy(), table.labels):
        raise BadInput(f"{latents[0]}: not the latents of {data}; delete them and run the same command again")
    orders = []
    for label, of_class in enumerate(read_modes(modes, table.classes)):
        rows = torch.nonzero(cache.labels == label).flatten()
        nearest = nearest_latents(cache.take(rows)[0], of_class[: settings.ipc], settings.pool)
        orders.append(rows[nearest].tolist())
    write_images(images, ordered_by_slot(table, orders), job.provenance)
