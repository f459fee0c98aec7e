"""Generate the candidates of increment k, one shard of classes, steered by what the student has not learned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from distillery.diffusion.settings import Sampling
from distillery.guidance.settings import Deviation, Influence, Learnability, Mode
from distillery.job import Input, Job, Output
from distillery.methods.lgd import LGD
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment


class Settings(Block):
    """What the stage depends on. Ranges are resolved; strengths that a pilot chooses are `auto`.

    Nothing steers or chooses in increment 1: what is set for that has its default there, and no change of it counts.
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
    learnability: Learnability
    deviation: Deviation
    influence: Influence | None = None
    mode: Mode | None = None
    shard: int
    shards: int

    @classmethod
    def of(cls, experiment: Experiment, run: str, method: str, k: str, shard: str) -> Settings:
        """The part of an experiment that this stage reads."""
        from distillery.methods.sampling import resolved_guidance, resolved_steering

        lgd = experiment.method_of(method, LGD)
        first = int(k) == 1
        learnability, deviation = (Learnability(), Deviation()) if first else resolved_guidance(experiment, method)
        influence, mode, _ = (None, None, None) if first else resolved_steering(experiment, method)
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
            learnability=learnability,
            deviation=deviation,
            influence=influence,
            mode=mode,
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
    reference: Input | None = None,
    guidance: Input | None = None,
    gradients: Input | None = None,
    modes: Input | None = None,
    seed_images: Input | None = None,
    candidates: Output,
    job: Job,
) -> None:
    """Generator, student, reference and the increments before k to all candidates with their losses.

    Increment 1 has no student yet: it is sampled plainly, or taken from `seed_images` and encoded.
    """
    from distillery.diffusion.renderer import class_conditions, load_renderer
    from distillery.diffusion.sampler import Guidance
    from distillery.guidance.further import Further
    from distillery.guidance.increment import generate_candidates
    from distillery.guidance.lgd import LoopGuidance, encode_seed, image_set
    from distillery.guidance.score import Scorer
    from distillery.storage.atomic import read_json
    from distillery.storage.images import read_classes, read_images, write_images
    from distillery.students.networks import Classifier

    classes = read_classes(data, "ingest")
    labels = range(len(classes))[settings.shard :: settings.shards]
    folder, size, first = generator[0].parent, settings.increment_size, settings.increment == 1
    renderer = load_renderer(
        folder,
        autoencoder[0].parent,
        resolution=settings.resolution,
        **settings.sampling.model_dump(),
        device=job.device,
        guidance_autoencoder=guidance_autoencoder[0].parent if guidance_autoencoder else None,
    )
    if seed_images is not None:
        encoded = encode_seed(read_images(seed_images, "collect"), labels, size, renderer.codec, job.device)
        write_images(candidates, encoded, job.provenance)
        return
    chosen = read_json(guidance, "calibrate_guidance") if guidance else {}
    learnability = settings.learnability.model_copy(update=chosen)
    scorer, memory = None, None  # as increment 1 has it
    guidances: list[Guidance] = []
    if student is not None and reference is not None:
        scorer = Scorer(
            Classifier.load(student, "train_student").to(job.device),
            Classifier.load(reference, "train_reference").to(job.device),
            float(learnability.reference_weight),
        )
        increments = [read_images(path, "select_increment") for path in previous or []]
        further = Further(settings.influence, settings.mode, gradients, modes).guidances(renderer, classes)
        loop = LoopGuidance(renderer, learnability, settings.deviation, increments, further)
        guidances, memory = loop.start(scorer, float(learnability.strength))
    resume = job.resume(candidates)
    drawn = generate_candidates(
        renderer,
        labels=labels,
        conditions=class_conditions(folder, classes),
        slots=range((settings.increment - 1) * size, settings.increment * size),
        candidates=1 if first else settings.candidates,
        key=lambda label, slot, candidate: (settings.seed, settings.stream, classes[label], slot, candidate),
        scorer=scorer,
        guidances=guidances,
        memory=memory,
        choose=settings.choose,
        min_reference_probability=settings.min_reference_probability,
        resume=resume,
        what=job.stage,
    )
    skipped = sum(getattr(guide, "skipped", 0) for guide in guidances)
    if skipped:
        print(f"{skipped} gradients were too small or not finite; those steps went unguided")
    write_images(candidates, image_set(drawn, classes, increment=settings.increment), job.provenance)
    resume.finish()
