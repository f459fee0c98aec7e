"""Discover the modes of each class: where the latents of its training images gather (MGD3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    count: int
    discovery: Literal["centroid", "nearest", "random", "dbscan", "spectral", "mixture"]
    smallest_cluster: int
    pool: int | None
    seed: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, modes: str) -> Settings:
        mode = experiment.mode_discovery(method)
        kept = {name: getattr(mode, name) for name in cls.model_fields if name != "count"}
        return cls(count=int(modes), **kept)


def run(settings: Settings, *, latents: list[Input], modes: Output, job: Job) -> None:
    """Latents (their means) to one tensor (modes, C, h, w) per class, under the name of the class."""
    import torch

    from distillery.diffusion.latents import LatentCache
    from distillery.guidance.mode_discovery import discover_modes
    from distillery.storage.tensors import write_tensors

    cache = LatentCache(latents)
    side = cache.shape[-1]
    if settings.pool is not None and settings.pool > side:
        raise BadInput(f"mode.pool: {settings.pool} is more than the side of the latents, {side}")
    of_class = {}
    for label, name in enumerate(cache.classes):
        try:
            of_class[name] = discover_modes(
                cache.take(torch.nonzero(cache.labels == label).flatten())[0],
                settings.count,
                discovery=settings.discovery,
                smallest_cluster=settings.smallest_cluster,
                pool=settings.pool,
                seed=settings.seed,
            )
        except BadInput as error:
            raise BadInput(f"class {name!r}: {error}") from None
    write_tensors(modes, of_class, job.provenance)
