"""Measure how much of the gradient reaches the latents of LD3M, for each residual and several numbers of steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillery.data.channels import Known
from distillery.job import Input, Job, Output
from distillery.methods.matched import Scene
from distillery.methods.matching import LD3M
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """The method, and how its experts have to have been trained, where it has any."""

    seed: int
    stream: str
    method: LD3M
    network: str
    ipc: int
    steps: list[int]
    repeats: int
    normalization: Known = "imagenet"
    experts_recipe: Recipe | None = Field(None, exclude_if=lambda recipe: recipe is None)

    @classmethod
    def of(cls, experiment: Experiment, run: str) -> Settings:
        gradients = experiment.analysis.gradients
        assert gradients is not None
        method = experiment.method_of(gradients.method, LD3M)
        return cls(
            seed=experiment.seed(run),
            stream=experiment.stream(gradients.method),
            method=method.model_copy(update={"stream": None, "network": None, "iterations": 1}),
            normalization=experiment.dataset.normalization,
            network=method.comparing(experiment),
            ipc=min(experiment.ipc),
            steps=gradients.steps,
            repeats=gradients.repeats,
            experts_recipe=method.expert_recipe(experiment.experts, experiment.dataset.normalization),
        )


def run(
    settings: Settings,
    *,
    data: Input,
    whitening: Input | None = None,
    generator: list[Input],
    autoencoder: list[Input],
    experts: list[Input] | None = None,
    norms: Output,
    job: Job,
) -> None:
    """A generator and a method at its start to norms of dL/dZ and dL/dc, one row per steps, residual and repeat."""
    import pyarrow as pa

    from distillery.matching.build import Places
    from distillery.matching.gradient_norms import gradient_norms
    from distillery.matching.real_images import RealImages
    from distillery.storage.tables import write_table

    method, key = settings.method, (settings.seed, settings.stream)
    view: dict[str, Any] = {"normalization": settings.normalization, "whitening": whitening}
    real = RealImages.load(data, job.device, **view, svhn_mean=method.shifts_ours)
    known = (experts or (), settings.experts_recipe)
    objective = method.comparing_objective(real, settings.network, (*key, "match"), job.device, *known)
    places = Places.of(key, real.classes, range(len(real.classes)), settings.ipc)
    folders = (generator[0].parent, autoencoder[0].parent)
    scene = Scene(real.classes, real.domain, settings.seed, job.device, *folders)
    opened, latents, options = method.opened(real, places, key, scene)
    rows = gradient_norms(
        opened,
        method.chain,
        objective,
        places,
        latents,
        steps=settings.steps,
        repeats=settings.repeats,
        **options,
    )
    write_table(norms, pa.Table.from_pylist([{"seed": settings.seed, **row} for row in rows]), job.provenance)
