"""Sample the generator with the guidances of a method, or with none, one shard of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.diffusion.settings import Sampling
from distillery.guidance.base import counts
from distillery.guidance.registry import Guidances
from distillery.job import Input, Job, Output
from distillery.methods.sampling import Sampled
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """Slots `first` to `ipc` - 1, of one shard of classes. Guidances are resolved."""

    seed: int
    stream: str
    first: int
    ipc: int
    resolution: int
    sampling: Sampling
    guidance: Guidances
    guidance_files: dict[str, int]
    shard: int
    shards: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, ipc: str, shard: str) -> Settings:
        sampled = experiment.method_of(method, Sampled)
        return cls(
            seed=experiment.seed(run),
            stream=experiment.stream(method),
            first=experiment.smaller(int(ipc)) if sampled.nested else 0,
            ipc=int(ipc),
            resolution=experiment.dataset.resolution,
            sampling=experiment.generators[sampled.generator].sampling,
            guidance=experiment.resolved_guidance(method),
            guidance_files=counts(experiment.guidance_files(run, method, int(ipc))),
            shard=int(shard),
            shards=sampled.shards,
        )


def run(
    settings: Settings,
    *,
    data: Input,
    generator: list[Input],
    autoencoder: list[Input],
    guidance_autoencoder: list[Input] | None = None,
    previous: list[Input] | None = None,
    guidance_files: list[Input] | None = None,
    images: Output,
    job: Job,
) -> None:
    """A generator and the files of its guidances to images in the order slot, class, with their latents.

    `data` names the classes. `previous` holds the images of the smaller sizes, for guidances that read them.
    """
    from distillery.diffusion.renderer import class_conditions, load_renderer
    from distillery.guidance.base import Scene, unguided_steps
    from distillery.guidance.increment import generate_candidates
    from distillery.guidance.lgd import image_set
    from distillery.storage.images import read_classes, read_images, write_images

    classes = read_classes(data, "ingest")
    folder = generator[0].parent
    renderer = load_renderer(
        folder,
        autoencoder[0].parent,
        resolution=settings.resolution,
        **settings.sampling.model_dump(),
        device=job.device,
        guidance_autoencoder=guidance_autoencoder[0].parent if guidance_autoencoder else None,
    )
    scene = Scene(renderer, classes, images=[read_images(path, job.stage) for path in previous or []])
    guidances = settings.guidance.open(settings.guidance.divided(guidance_files, settings.guidance_files), scene)
    resume = job.resume(images)
    drawn = generate_candidates(
        renderer,
        labels=range(len(classes))[settings.shard :: settings.shards],
        conditions=class_conditions(folder, classes),
        slots=range(settings.first, settings.ipc),
        candidates=1,
        key=lambda label, slot, candidate: (settings.seed, settings.stream, classes[label], slot, candidate),
        guidances=guidances,
        resume=resume,
        what=job.stage,
    )
    if words := unguided_steps(guidances):
        print(words)
    write_images(images, image_set(drawn, classes), job.provenance)
    resume.finish()
