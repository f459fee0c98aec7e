"""Optimise the images of one size, or of a shard of its classes, and keep their parameters at every snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from distillery.data.channels import Known
from distillery.errors import Diverged
from distillery.job import Input, Job, Output
from distillery.methods.matched import Matched, Scene
from distillery.methods.matching import AnyMatched
from distillery.settings import Block
from distillery.students.settings import Recipe

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """The method, and how its experts have to have been trained, where it has any."""

    seed: int
    name: str
    stream: str
    method: AnyMatched
    network: str
    ipc: int
    every: int
    shard: int
    normalization: Known = "imagenet"
    experts_recipe: Recipe | None = Field(None, exclude_if=lambda recipe: recipe is None)

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, shard: str) -> Settings:
        matched = experiment.method_of(method, Matched)
        return cls(
            seed=experiment.seed(run),
            name=method,
            stream=experiment.stream(method),
            method=matched.model_copy(update={"stream": None, "network": None}),
            normalization=experiment.dataset.normalization,
            network=matched.comparing(experiment),
            ipc=int(ipc),
            every=experiment.matching.every,
            shard=int(shard),
            experts_recipe=matched.expert_recipe(experiment.experts, experiment.dataset.normalization),
        )


def run(
    settings: Settings,
    *,
    data: Input,
    whitening: Input | None = None,
    generator: list[Input] | None = None,
    autoencoder: list[Input] | None = None,
    experts: list[Input] | None = None,
    snapshots: Output,
    history: Output,
    job: Job,
) -> None:
    """Training images and the files of space and objective to `snapshot/<iteration>/<name>` and losses."""
    from distillery.matching.build import Places
    from distillery.matching.loop import MatchingDiverged, Run, match, snapshot_tensors
    from distillery.matching.real_images import RealImages
    from distillery.matching.steps import Optimiser
    from distillery.storage.atomic import discard
    from distillery.storage.history import write_history
    from distillery.storage.tensors import write_tensors

    method, key = settings.method, (settings.seed, settings.stream)
    view: dict[str, Any] = {"normalization": settings.normalization, "whitening": whitening}
    real = RealImages.load(data, job.device, **view, svhn_mean=method.shifts_ours)
    known = (experts or (), settings.experts_recipe)
    objective = method.comparing_objective(real, settings.network, (*key, "match"), job.device, *known)
    labels = range(len(real.classes))[settings.shard :: method.shards]
    places = Places.of(key, real.classes, labels, settings.ipc)
    folders = (files[0].parent if files else None for files in (generator, autoencoder))
    space = method.space(real, places, key, Scene(real.classes, real.domain, settings.seed, job.device, *folders))
    about = {
        "classes": real.classes,
        "labels": places.labels.tolist(),
        "slots": places.slots.tolist(),
        "channels": real.domain.channels,
        "size": real.domain.size,
    }

    def write(path: Output, run: Run) -> None:
        write_tensors(path, snapshot_tensors(run.snapshots), job.provenance, **about)

    resume, last_good = job.resume(snapshots), snapshots.with_name(f"{snapshots.stem}.last-good.safetensors")
    try:
        done = match(
            space,
            objective,
            Optimiser(space.parameters, **method.optimiser_options(settings.ipc, real.domain.size, len(real.classes))),
            places.labels,
            iterations=method.iterations,
            every=settings.every,
            resume=resume,
            what=f"{settings.name} ipc {settings.ipc}",
        )
    except MatchingDiverged as diverged:
        last = max(diverged.run.snapshots)
        write(last_good, Run(diverged.run.history, {last: diverged.run.snapshots[last]}))
        resume.finish()
        inside = method.inner_rates(f"methods.{settings.name}") if diverged.inside else ""
        raise Diverged(
            f"methods.{settings.name}.{method.rate_key}: it diverges: {diverged}. The last good snapshot, that of "
            f"iteration {last}, is kept in {last_good}; lower the rate{f', or {inside}' if inside else ''}"
        ) from diverged
    write(snapshots, done)
    write_history(history, [done.history], job.provenance)
    discard(last_good)  # of an earlier attempt that diverged
    resume.finish()
