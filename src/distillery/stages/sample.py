"""Sample the generator without guidance (method DiT), one shard of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Sampling as SamplingBlock
from distillery.job import Input, Job, Output
from distillery.methods.sampling import Sampling
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """What the stage depends on: slots `first` to `ipc` - 1, of one shard of classes."""

    seed: int
    stream: str
    first: int
    ipc: int
    resolution: int
    sampling: SamplingBlock
    shard: int
    shards: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, shard: str) -> Settings:
        """The part of an experiment that this stage reads."""
        plain = experiment.method_of(method, Sampling)
        return cls(
            seed=experiment.seed(run),
            stream=experiment.stream(method),
            first=experiment.smaller(int(ipc)),
            ipc=int(ipc),
            resolution=experiment.dataset.resolution,
            sampling=experiment.generators[plain.generator].sampling,
            shard=int(shard),
            shards=plain.shards,
        )


def run(
    settings: Settings, *, data: Input, generator: list[Input], autoencoder: list[Input], images: Output, job: Job
) -> None:
    """A generator to its images, in the order slot, class, with their latents; `data` names the classes."""
    from distillery.diffusion.renderer import class_conditions, load_renderer
    from distillery.guidance.increment import generate_candidates
    from distillery.guidance.lgd import image_set
    from distillery.storage.images import read_classes, write_images

    classes = read_classes(data, "ingest")
    folder = generator[0].parent
    renderer = load_renderer(
        folder,
        autoencoder[0].parent,
        resolution=settings.resolution,
        **settings.sampling.model_dump(),
        device=job.device,
    )
    resume = job.resume(images)
    drawn = generate_candidates(
        renderer,
        labels=range(len(classes))[settings.shard :: settings.shards],
        conditions=class_conditions(folder, classes),
        slots=range(settings.first, settings.ipc),
        candidates=1,
        key=lambda label, slot, candidate: (settings.seed, settings.stream, classes[label], slot, candidate),
        resume=resume,
        what=job.stage,
    )
    write_images(images, image_set(drawn, classes), job.provenance)
    resume.finish()
