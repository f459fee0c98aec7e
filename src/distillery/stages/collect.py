"""Collect shards and increments into the distilled set of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    ipc: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        return cls(ipc=int(ipc))


def run(settings: Settings, *, parts: list[Input], images: Output, job: Job) -> None:
    """Image sets to the images of slots 0 to ipc-1, in the order class, slot; latents stay behind."""
    import numpy as np

    from distillery.storage.images import concatenate, read_images, write_images

    whole = concatenate([read_images(path, "sample, select or select_increment") for path in parts])
    slots = whole.columns["slot"]
    order = np.lexsort((slots, whole.labels))
    kept = whole.take(order[slots[order] < settings.ipc])
    kept.columns.pop("latent", None)
    write_images(images, kept, job.provenance)
