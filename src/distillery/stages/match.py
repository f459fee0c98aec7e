"""Optimise the images of one size, or of a shard of its classes: what they are made of, at every snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Input, Job, Output
from distillery.matching.settings import Gradient, Trajectory
from distillery.methods.matching import IDC, AnyMatched, Matched
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """What the stage depends on."""

    seed: int
    name: str
    stream: str
    method: AnyMatched
    network: str
    ipc: int
    held_out: float
    every: int
    shard: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, shard: str) -> Settings:
        """The part of an experiment that this stage reads."""
        matched = experiment.method_of(method, Matched)
        return cls(
            seed=experiment.seed(run),
            name=method,
            stream=experiment.stream(method),
            method=matched.model_copy(update={"stream": None, "network": None}),
            network=matched.comparing(experiment),
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
    from distillery.matching.experts import Trajectories, wanted_of
    from distillery.matching.loop import Diverged, Run, match, snapshot_tensors
    from distillery.matching.real_images import RealImages
    from distillery.storage.atomic import discard
    from distillery.storage.tables import write_table
    from distillery.storage.tensors import write_tensors

    method, key = settings.method, (settings.seed, settings.stream)
    real = RealImages.load(data, settings.held_out, settings.seed, job.device)
    trajectories = None
    if experts:
        trajectories = Trajectories(experts, wanted_of(settings.network, real, method.last_epoch))
    objective = comparing_objective(method, real, settings.network, (*key, "match"), job.device, trajectories)
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
        rate, inside = "step", ""
        if isinstance(method, IDC):
            rate, inside = "learning_rate", f", or methods.{settings.name}.network_rate"
        elif isinstance(getattr(method, "objective", None), Gradient | Trajectory):
            inside = f", or the rates of methods.{settings.name}.objective"
        raise BadInput(
            f"methods.{settings.name}.{rate}: it diverges: {diverged}. The last good snapshot, that of iteration "
            f"{last}, is kept in {last_good}; lower the rate{inside if diverged.inside else ''}"
        ) from diverged
    write(snapshots, done)
    write_table(history, pa.Table.from_pylist(done.history), job.provenance)
    discard(last_good)  # of an earlier attempt that diverged
    resume.finish()
