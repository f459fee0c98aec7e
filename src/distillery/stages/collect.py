"""Collect shards and increments into the distilled set of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """The size, and what the file of the set says of its making."""

    ipc: int
    lineage: dict[str, Any] = Field({})

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str) -> Settings:
        return cls(ipc=int(ipc), lineage=experiment.lineage(run, method, int(ipc)))


def run(settings: Settings, *, parts: list[Input], images: Output, job: Job) -> None:
    """Image sets to the images of slots 0 to ipc-1, in the order class, slot; latents stay behind.

    The metadata of the file have the settings and the code of every stage that the set comes from, and the step size
    that was learned with it, where one was.
    """
    import json

    import numpy as np

    from distillery.provenance import code_digest
    from distillery.storage.images import LEARNED_RATE, concatenate, learned_rate, read_images, write_images

    whole = concatenate([read_images(path, "sample, select or select_increment") for path in parts])
    slots = whole.columns["slot"]
    order = np.lexsort((slots, whole.labels))
    kept = whole.take(order[slots[order] < settings.ipc])
    kept.columns.pop("latent", None)
    stages = {key.partition(":")[0] for key in settings.lineage.get("stages", [])}
    codes = {stage: code_digest(stage) for stage in sorted(stages)}
    about = {"code_by_stage": json.dumps(codes, sort_keys=True)}
    if (rate := learned_rate(kept.columns)) is not None:
        about[LEARNED_RATE] = repr(rate)
    write_images(images, kept, {**job.provenance, **about})
