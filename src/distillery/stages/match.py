"""Optimise the images of one size, or of a shard of its classes: what they are made of, at every snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.matching.settings import IDC, LD3M, Latent, Pixels
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """What the stage depends on."""

    seed: int
    name: str
    stream: str
    method: LD3M | Latent | Pixels | IDC = Field(discriminator="kind")
    network: str
    ipc: int
    held_out: float
    every: int
    shard: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, shard: str) -> Settings:
        """The part of an experiment that this stage reads."""
        block = experiment.matched(method)
        return cls(
            seed=experiment.seed(run),
            name=method,
            stream=experiment.stream(method),
            method=block.model_copy(update={"stream": None, "network": None}),
            network=experiment.comparing(method),
            ipc=int(ipc),
            held_out=experiment.held_out,
            every=experiment.matching.every,
            shard=int(shard),
        )


def run(
    settings: Settings,
    *,
    data: Input,
    generator: list[Input] | None = None,
    autoencoder: list[Input] | None = None,
    experts: list[Input] | None = None,
    snapshots: Output,
    history: Output,
    job: Job,
) -> None:
    """Training images, and what the space and the objective need, to `snapshot/<iteration>/<name>` and losses."""
    import pyarrow as pa

    from distillery.matching.build import Places, comparing_objective, open_space, optimiser_of
    from distillery.matching.loop import Diverged, Run, match, snapshot_tensors
    from distillery.matching.real_images import RealImages
    from distillery.storage.tables import write_table
    from distillery.storage.tensors import write_tensors

    method, key = settings.method, (settings.seed, settings.stream)
    real = RealImages.load(data, settings.held_out, settings.seed, job.device)
    objective = comparing_objective(method, real, settings.network, (*key, "match"), job.device, experts or ())
    labels = range(len(real.classes))[settings.shard :: method.shards]
    places = Places.of(key, real.classes, labels, settings.ipc)
    space = open_space(
        method,
        real,
        places,
        key,
        classes=real.classes,
        domain=real.domain,
        seed=settings.seed,
        device=job.device,
        generator=generator[0].parent if generator else None,
        autoencoder=autoencoder[0].parent if autoencoder else None,
    )
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
            optimiser_of(method, space.parameters, settings.ipc, real.domain.size, len(real.classes)),
            places.labels,
            iterations=method.iterations,
            every=settings.every,
            resume=resume,
            what=f"{settings.name} ipc {settings.ipc}",
        )
    except Diverged as diverged:
        last = max(diverged.run.snapshots)
        write(last_good, Run({last: diverged.run.snapshots[last]}))
        resume.finish()
        inside = method.inner_rates(f"methods.{settings.name}") if diverged.inside else ""
        raise BadInput(
            f"methods.{settings.name}.{method.rate_key}: it diverges: {diverged}. The last good snapshot, that of "
            f"iteration {last}, is kept in {last_good}; lower the rate{f', or {inside}' if inside else ''}"
        ) from diverged
    write(snapshots, done)
    write_table(history, pa.Table.from_pylist(done.history), job.provenance)
    last_good.unlink(missing_ok=True)  # of an earlier attempt that diverged
    resume.finish()
