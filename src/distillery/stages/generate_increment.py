"""Generate increment k, one shard of classes: candidates guided by learnability, and a choice among them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.diffusion.settings import Sampling
from distillery.guidance.base import counts
from distillery.guidance.registry import Guidances
from distillery.job import Input, Job, Output
from distillery.methods.lgd import LGD
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """Guidances are resolved; strengths that a pilot chooses are `auto`.

    Increment 1 has no student, so no learnability and no choice: their settings have defaults there, so that no change
    of them counts. It has the other guidances where the method's `seed` is `guided`.
    """

    seed: int
    stream: str
    increment: int
    increment_size: int
    resolution: int
    sampling: Sampling
    candidates: int
    choose: Literal["learnability", "random"]
    min_reference_probability: float
    guidance: Guidances
    guidance_files: dict[str, int]
    shard: int
    shards: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str, shard: str) -> Settings:
        lgd = experiment.method_of(method, LGD)
        first = int(k) == 1
        return cls(
            seed=experiment.seed(run),
            stream=experiment.stream(method),
            increment=int(k),
            increment_size=lgd.increment_size,
            resolution=experiment.dataset.resolution,
            sampling=experiment.generators[lgd.generator].sampling,
            candidates=1 if first else lgd.candidates,
            choose="learnability" if first else lgd.choose,
            min_reference_probability=0.0 if first else lgd.min_reference_probability,
            guidance=experiment.increment_guidance(method, int(k)),
            guidance_files=counts(experiment.increment_files(run, method, int(k))),
            shard=int(shard),
            shards=lgd.shards,
        )


def run(
    settings: Settings,
    *,
    data: Input,
    generator: list[Input],
    autoencoder: list[Input],
    guidance_autoencoder: list[Input] | None = None,
    previous: list[Input] | None = None,
    student: Input | None = None,
    other_students: Input | None = None,
    reference: Input | None = None,
    calibrated: Input | None = None,
    guidance_files: list[Input] | None = None,
    seed_images: Input | None = None,
    seed_parts: list[Input] | None = None,
    candidates: Output,
    job: Job,
) -> None:
    """Generator, students, reference and the increments before k to all candidates with their scores and the choice.

    Increment 1 has no student yet: it is sampled without learnability, or taken from `seed_images`, with
    the latents that `seed_parts` have of them, or encoded.
    `calibrated` holds the strength and the weight that a pilot chose.
    """
    from distillery.diffusion.renderer import class_conditions, load_renderer
    from distillery.guidance.base import Scene, unguided_steps
    from distillery.guidance.increment import generate_candidates
    from distillery.guidance.lgd import LoopGuidance, encode_seed, image_set, open_loop
    from distillery.guidance.score import Scorer
    from distillery.storage.images import read_classes, read_images, write_images

    classes = read_classes(data, "ingest")
    labels = range(len(classes))[settings.shard :: settings.shards]
    folder, size = generator[0].parent, settings.increment_size
    renderer = load_renderer(
        folder,
        autoencoder[0].parent,
        resolution=settings.resolution,
        **settings.sampling.model_dump(),
        device=job.device,
        guidance_autoencoder=guidance_autoencoder[0].parent if guidance_autoencoder else None,
    )
    if seed_images is not None:
        sampled = [read_images(path, "sample") for path in seed_parts or []]
        seed = read_images(seed_images, "collect")
        encoded = encode_seed(seed, labels, size, renderer.codec, job.device, sampled)
        write_images(candidates, encoded, job.provenance)
        return
    scene = Scene(renderer, classes, images=[read_images(path, "select_increment") for path in previous or []])
    files = settings.guidance.divided(guidance_files, settings.guidance_files)
    scorer: Scorer | None = None  # as increment 1 has it
    if student is not None and reference is not None:
        loop = LoopGuidance(settings.guidance, files, scene)
        scorer, guidances = open_loop(loop, student, other_students, reference, calibrated, job.device)
    else:
        guidances = settings.guidance.replaced(learnability=None).open(files, scene)  # it asks a student
    resume = job.resume(candidates)
    drawn = generate_candidates(
        renderer,
        labels=labels,
        conditions=class_conditions(folder, classes),
        slots=range((settings.increment - 1) * size, settings.increment * size),
        candidates=settings.candidates if scorer else 1,
        key=lambda label, slot, candidate: (settings.seed, settings.stream, classes[label], slot, candidate),
        scorer=scorer,
        guidances=guidances,
        choose=settings.choose,
        min_reference_probability=settings.min_reference_probability,
        resume=resume,
        what=job.stage,
    )
    if words := unguided_steps(guidances):
        print(words)
    write_images(candidates, image_set(drawn, classes, increment=settings.increment), job.provenance)
    resume.finish()
