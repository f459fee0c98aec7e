"""Sample the generator with the guidances of a method (IGD, MGD3), one shard of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillery.diffusion.settings import Sampling
from distillery.guidance.settings import PUBLISHED_DEVIATION, Deviation, Influence, Mode
from distillery.job import Input, Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """What the stage depends on: slots `first` to `ipc` - 1, of one shard of classes. Ranges are resolved."""

    seed: int
    stream: str
    first: int
    ipc: int
    resolution: int
    sampling: Sampling
    influence: Influence | None
    mode: Mode | None
    deviation: Deviation | None
    published_deviation: float
    shard: int
    shards: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, shard: str) -> Settings:
        """The part of an experiment that this stage reads."""
        from distillery.methods.sampling import resolved_steering

        guided: Any = experiment.methods[method]
        influence, mode, deviation = resolved_steering(experiment, method)
        return cls(
            seed=experiment.seed(run),
            stream=experiment.stream(method),
            first=experiment.smaller(int(ipc)) if guided.nested else 0,
            ipc=int(ipc),
            resolution=experiment.dataset.resolution,
            sampling=experiment.generators[guided.generator].sampling,
            influence=influence,
            mode=mode,
            deviation=deviation,
            published_deviation=PUBLISHED_DEVIATION[guided.kind],
            shard=int(shard),
            shards=guided.shards,
        )


def run(
    settings: Settings,
    *,
    data: Input,
    generator: list[Input],
    autoencoder: list[Input],
    guidance_autoencoder: list[Input] | None = None,
    previous: list[Input] | None = None,
    gradients: Input | None = None,
    modes: Input | None = None,
    images: Output,
    job: Job,
) -> None:
    """A generator, and what steers it, to its images in the order slot, class, with their latents.

    `previous` holds the images of the smaller sizes, whose latents deviation keeps away from.
    """
    from distillery.diffusion.renderer import class_conditions, load_renderer
    from distillery.guidance.further import Further, start_deviation
    from distillery.guidance.increment import generate_candidates
    from distillery.guidance.lgd import image_set
    from distillery.storage.images import read_classes, read_images, write_images

    classes = read_classes(data, "ingest")
    folder = generator[0].parent
    conditions = class_conditions(folder, classes)
    renderer = load_renderer(
        folder,
        autoencoder[0].parent,
        resolution=settings.resolution,
        **settings.sampling.model_dump(),
        device=job.device,
        guidance_autoencoder=guidance_autoencoder[0].parent if guidance_autoencoder else None,
    )
    guidances = Further(settings.influence, settings.mode, gradients, modes).guidances(renderer, classes)
    memory = None
    if settings.deviation is not None:
        before = [read_images(path, job.stage) for path in previous or []]
        if started := start_deviation(settings.deviation, renderer, before, settings.published_deviation):
            guidances.append(started[0])
            memory = started[1]
    resume = job.resume(images)
    drawn = generate_candidates(
        renderer,
        labels=range(len(classes))[settings.shard :: settings.shards],
        conditions=conditions,
        slots=range(settings.first, settings.ipc),
        candidates=1,
        key=lambda label, slot, candidate: (settings.seed, settings.stream, classes[label], slot, candidate),
        guidances=guidances,
        memory=memory,
        resume=resume,
        what=job.stage,
    )
    if skipped := sum(getattr(guide, "skipped", 0) for guide in guidances):
        print(f"{skipped} gradients were too small or not finite; those steps went unguided")
    write_images(images, image_set(drawn, classes), job.provenance)
    resume.finish()
