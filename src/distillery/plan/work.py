"""What the stages of an experiment compute, summed over all jobs of all seeds: the basis of a forecast of its time.

The settings give images, steps, networks and guided indices. The work of networks of timm is not known, nor that of
weights that are not here: only their jobs are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from distillery.counts import Counts, convolution, matrix
from distillery.data.settings import images_held_out
from distillery.data.source import count
from distillery.diffusion.counts import autoencoder_counts
from distillery.diffusion.generators import Training
from distillery.diffusion.settings import Autoencoder
from distillery.errors import SourceError
from distillery.methods.best_of import BestOf
from distillery.methods.lgd import LGD
from distillery.methods.matched import Matched
from distillery.methods.sampling import Sampled
from distillery.plan.estimate import channels_of, estimates, network_of, training_images, transformer_of
from distillery.plan.experiment import Experiment
from distillery.students.settings import Recipe

SMALL_JOBS = "tables, figures and copies"
"""Stands for the stages that compute next to nothing; each of their jobs has to be started."""


@dataclass(frozen=True)
class Work:
    """The work of a stage, all jobs together.

    Attributes:
        stage: its name, or `SMALL_JOBS`.
        jobs: processes that are started.
        operations: floating-point operations of convolutions and matrices.
        traffic: numbers that layers read or write beside them; a pass back counts as two.
        steps: of optimisers and samplers, one after another in a job.
        memory: bytes that the largest job takes at least, beside the libraries.
        float32: whether the settings keep it in float32 on a card.
    """

    stage: str
    jobs: int = 0
    operations: float = 0.0
    traffic: float = 0.0
    steps: float = 0.0
    memory: float = 0.0
    float32: bool = False

    def __add__(self, other: Work) -> Work:
        return Work(
            self.stage,
            self.jobs + other.jobs,
            self.operations + other.operations,
            self.traffic + other.traffic,
            self.steps + other.steps,
            max(self.memory, other.memory),
            self.float32 or other.float32,
        )


def work(experiment: Experiment) -> list[Work]:
    """The work of each stage, in the order of the pipeline."""
    memory: dict[str, float] = {}
    for estimate in estimates(experiment):
        memory[estimate.stage] = max(memory.get(estimate.stage, 0.0), sum(estimate.memory.values()))
    stages: dict[str, Work] = {}
    for part in _parts(experiment):
        stages[part.stage] = stages.get(part.stage, Work(part.stage)) + part
    return [replace(part, memory=memory.get(part.stage, 0.0)) for part in stages.values() if part.jobs]


def _parts(experiment: Experiment) -> Iterator[Work]:
    yield Work("ingest", 1)
    yield from _models(experiment)
    yield from _networks(experiment)
    yield from _sampled(experiment)
    yield from _loops(experiment)
    yield from _matched(experiment)
    yield from _evaluated(experiment)
    yield _small(experiment)


def _forward(counts: Counts, images: float) -> tuple[float, float]:
    """Operations and traffic of so many images on their way forward."""
    return 2 * counts.products * images, counts.kept * images


# ---- models ----------------------------------------------------------------------------------------------------------


def _models(experiment: Experiment) -> Iterator[Work]:
    runs, images = len(experiment.model_runs), training_images(experiment)
    codec = codec_counts(experiment)
    if experiment.autoencoder.stage == "train_autoencoder" and experiment.generators:
        block = Autoencoder.model_validate(experiment.autoencoder)
        seen = float(block.steps * block.batch_size * runs)
        trained = Work("train_autoencoder", runs, 6 * codec.products * seen, 3 * codec.kept * seen, block.steps * runs)
        if block.perceptual_reference:  # both images forward, one back
            judge = network_of(experiment, experiment.references[block.perceptual_reference].network)
            trained += Work("", 0, 6 * judge.products * seen, 3 * judge.kept * seen)
        yield trained
        yield _once("measure_autoencoder", codec, images_tested(experiment), runs)
    if any(method.needs.autoencoder for method in experiment.methods.values()):
        encoded = images * (1 + experiment.latents.mirrored) / 2  # the encoder is half of an autoencoder
        yield replace(_once("encode_latents", codec, encoded, runs), jobs=experiment.latents.shards * runs)
    for stage in ("train_generator", "finetune_generator"):
        for name in experiment.generators_of(stage):
            training, counts = Training.model_validate(experiment.generators[name]), transformer_of(experiment, name)
            for group in experiment.images_of_groups(name):
                steps = training.steps_on(group)
                seen = float(steps * training.batch_size * runs)
                part = Work(stage, runs, 6 * counts.products * seen, 3 * counts.kept * seen, float(steps * runs))
                yield replace(part, float32=training.precision == "float32")


def _once(stage: str, counts: Counts, images: float, jobs: int) -> Work:
    """Images that go forward once in each job."""
    operations, traffic = _forward(counts, images * jobs)
    return Work(stage, jobs, operations, traffic)


def codec_counts(experiment: Experiment) -> Counts:
    """The counts of the autoencoder with its middle blocks; none where nobody knows its shape yet."""
    if experiment.autoencoder.blocks is None:
        return Counts()
    (widths, layers), side = experiment.autoencoder.blocks, experiment.dataset.resolution
    last, maps = widths[-1], side >> (len(widths) - 1)
    convolutions = sum([convolution(last, last, maps)] * 8, Counts())
    attention = sum([matrix(last, last, maps**2)] * 8, Counts(0.0, 4.0 * maps**4 * last))
    return autoencoder_counts(widths, layers, channels_of(experiment), side) + convolutions + attention


def images_tested(experiment: Experiment) -> int:
    """Images that an accuracy is measured on; 0 where the source does not tell."""
    dataset, split = experiment.dataset, experiment.evaluation.split
    block = dataset.validation if split == "validation" else dataset.holdout
    if block is not None:
        fraction = block.fraction / (1 - block.fraction)
        return sum(
            images_held_out(round(size * (1 + fraction)), block.fraction) for size in experiment.training_sizes.values()
        )
    try:
        return count(dataset.source, "test", experiment.class_names)
    except SourceError:
        return 0


# ---- networks --------------------------------------------------------------------------------------------------------


def _trained(
    experiment: Experiment, stage: str, network: str, recipe: Recipe, images: int, *, networks: int = 1, jobs: int = 1
) -> Work:
    """Networks that are trained in each of so many jobs, and tested where the stage evaluates."""
    counts, seen = network_of(experiment, network, recipe), float(images * recipe.epochs * networks * jobs)
    operations, traffic = 6 * counts.products * seen, 3 * counts.kept * seen
    if recipe.teacher in experiment.references:
        teacher = network_of(experiment, experiment.references[str(recipe.teacher)].network, recipe)
        operations, traffic = operations + 2 * teacher.products * seen, traffic + teacher.kept * seen
    if stage == "evaluate":
        looked = float(images_tested(experiment) * recipe.evaluations * networks * jobs)
        operations, traffic = operations + 2 * counts.products * looked, traffic + counts.kept * looked
    steps = float(recipe.epochs * max(-(-images // recipe.batch_size), 1) * networks * jobs)
    return Work(stage, jobs, operations, traffic, steps)


def _networks(experiment: Experiment) -> Iterator[Work]:
    """References and surrogates, on all real images."""
    images, runs = training_images(experiment), len(experiment.model_runs)
    for reference in experiment.references.values():
        if reference.weights is None:
            recipe = experiment.recipe(reference.training, reference.network, "full")
            yield _trained(experiment, "train_reference", reference.network, recipe, images, jobs=runs)
    for surrogate in experiment.surrogates.values():
        recipe = experiment.recipe(surrogate.training, surrogate.network, "full")
        counts, kept = network_of(experiment, surrogate.network, recipe), len(surrogate.keep or [0] * 4)
        if surrogate.checkpoints is None:
            yield _trained(experiment, "train_surrogate", surrogate.network, recipe, images, jobs=runs)
        seen = float(min(surrogate.gradient_images * experiment.classes, images) * kept * runs)
        yield Work("select_checkpoints", runs, 6 * counts.products * seen, 3 * counts.kept * seen)


# ---- images ----------------------------------------------------------------------------------------------------------


def _guided(experiment: Experiment, name: str, images: float, increment: int | None = None) -> Work:
    """Images that a method samples, with what its guidances add at their indices."""
    method = experiment.method_of(name, Sampled)
    sampling = experiment.generators[method.generator].sampling
    denoiser, codec = transformer_of(experiment, method.generator), codec_counts(experiment)
    halves = 1 if sampling.guidance_scale == 1 else 2
    guidance = (
        experiment.resolved_guidance(name) if increment is None else experiment.increment_guidance(name, increment)
    )
    passes: list[tuple[Counts, float]] = [(denoiser, float(halves * sampling.steps)), (codec, 0.5)]
    for block in (block for name, block in guidance.present().items() if name in guidance.acting):
        first, last = block.guided_range(sampling.steps)
        surrogate = experiment.surrogates.get(getattr(block, "surrogate", ""))
        extra = block.passes(len(surrogate.keep or [0] * 4) if surrogate else 0)
        indices = float(last - first + 1)
        passes += [(denoiser, halves * extra.denoiser * indices), (codec, 0.5 * extra.decoder * indices)]
        for network in _scored_by(experiment, name) if extra.scorer else []:
            passes.append((network_of(experiment, network), extra.scorer * indices))
        if surrogate is not None:
            passes.append((network_of(experiment, surrogate.network), extra.surrogate * indices))
    operations = sum(2 * counts.products * number for counts, number in passes)
    traffic = sum(counts.kept * number for counts, number in passes)
    batches = max(-(-images // sampling.batch_size), 1)
    return Work(method.stage, 0, operations * images, traffic * images, float(sampling.steps * batches))


def _scored_by(experiment: Experiment, name: str) -> list[str]:
    """The networks that an image is scored by: the students and the reference of a loop."""
    reference = experiment.references.get(str(experiment.methods[name].needs.reference))
    return [*experiment.student_networks(name), *([reference.network] if reference else [])]


def _sampled(experiment: Experiment) -> Iterator[Work]:
    runs, sizes = len(experiment.runs), experiment.ipc
    for name in experiment.made_by("sample"):
        method = experiment.method_of(name, Sampled)
        drawn = max(sizes) if method.nested else sum(sizes)
        part = _guided(experiment, name, float(drawn * experiment.classes * runs))
        yield replace(part, jobs=len(sizes) * method.shards * runs)


# ---- loops and matching ----------------------------------------------------------------------------------------------


def _loops(experiment: Experiment) -> Iterator[Work]:
    """The jobs of the incremental methods: students, and where images are made, increments and pilots."""
    runs, classes = len(experiment.runs), experiment.classes
    for name in (name for name, method in experiment.methods.items() if method.incremental):
        loop, increments = experiment.loop(name), experiment.increments(name)
        students = range(loop.beginning, increments)
        for network in experiment.student_networks(name):
            for k in students:
                images = loop.increment_size * k * classes
                protocol = loop.student.protocol or experiment.evaluation.protocols[0]
                recipe = experiment.recipe(protocol, network, loop.increment_size * k)
                number = loop.student.students
                yield _trained(experiment, "train_student", network, recipe, images, networks=number, jobs=runs)
        if name not in experiment.made_by("generate_increment"):
            continue
        method = experiment.method_of(name, LGD)
        drawn = method.increment_size * method.candidates * classes * runs
        for k in range(1, increments + 1):
            part = _guided(experiment, name, float(drawn), k)
            yield replace(part, jobs=method.shards * runs)
        if method.calibrates:
            pilot = method.pilot_images(experiment.ipc, classes) * method.calibration.most_settings * runs
            yield replace(_guided(experiment, name, float(pilot), 2), stage="calibrate_guidance", jobs=runs)


def _matched(experiment: Experiment) -> Iterator[Work]:
    runs, matching = len(experiment.runs), experiment.matching
    sizes = list(experiment.training_sizes.values())
    for name in experiment.made_by("match"):
        method = experiment.method_of(name, Matched)
        compared, chain = method.comparing(experiment), transformer_of(experiment, method.needs.generator)
        network, steps = network_of(experiment, compared), float(method.iterations * method.updates)
        for ipc in experiment.ipc:
            images = float(ipc * experiment.classes)
            passes, chained = method.passes(sizes, images), 3 * method.chain_passes * images
            operations = 2 * (network.products * passes + chain.products * chained) * steps
            traffic = (network.kept * passes + chain.kept * chained) * steps
            yield Work("match", method.shards * runs, operations * runs, traffic * runs, steps * runs)
            if matching.choose == "best":
                chooser = matching.network or experiment.comparing(name)
                recipe = experiment.recipe(matching.protocol or experiment.evaluation.protocols[0], chooser, ipc)
                number = matching.students * (method.iterations // matching.every + 1)
                yield _trained(experiment, "choose_snapshot", chooser, recipe, int(images), networks=number, jobs=runs)
    for name, block in experiment.experts.items():
        if block.files is None:
            counts = network_of(experiment, experiment.experts_network(name))
            models = len(experiment.model_runs)
            seen = float(training_images(experiment) * experiment.experts_epochs(name) * block.count * models)
            yield Work(
                "train_experts",
                block.shards * models,
                6 * counts.products * seen,
                3 * counts.kept * seen,
                seen / block.batch_size,
            )


# ---- evaluation ------------------------------------------------------------------------------------------------------


def _evaluated(experiment: Experiment) -> Iterator[Work]:
    evaluation, runs = experiment.evaluation, len(experiment.runs)
    for method in experiment.methods.values():
        for size in method.sizes(experiment.ipc):
            images = training_images(experiment) if size == "full" else int(size) * experiment.classes
            for protocol in evaluation.protocols:
                for network in evaluation.networks:
                    recipe = experiment.recipe(protocol, network, size)
                    yield _trained(
                        experiment, "evaluate", network, recipe, images, networks=evaluation.students, jobs=runs
                    )
    redundancy = experiment.analysis.redundancy
    for _ in redundancy.methods:
        network, size = redundancy.network or evaluation.networks[0], redundancy.increment_size
        recipe = experiment.recipe(evaluation.protocols[0], network, size)
        number = redundancy.students * (experiment.redundancy_ipc // size)
        images = size * experiment.classes
        yield _trained(experiment, "measure_redundancy", network, recipe, images, networks=number, jobs=runs)
    for name in experiment.made_by("choose_set"):
        chooser = experiment.method_of(name, BestOf)
        trained = chooser.trained(f"methods.{name}", experiment)
        for ipc in experiment.ipc:
            recipe, number = (
                experiment.recipe(trained.protocol, trained.network, ipc),
                chooser.students * len(chooser.methods),
            )
            images = ipc * experiment.classes
            yield _trained(experiment, "choose_set", trained.network, recipe, images, networks=number, jobs=runs)


def _small(experiment: Experiment) -> Work:
    """What collects and draws: a job for each size of a method, a contact sheet of each, a dozen tables and figures."""
    runs, selected = len(experiment.runs), 0
    for method in experiment.methods.values():
        sizes: Sequence[object] = method.sizes(experiment.ipc)
        selected += (2 if method.stage not in ("sample", "generate_increment") else 1) * len(sizes) + 1
        selected += method.increments(experiment.ipc)
    return Work(SMALL_JOBS, selected * runs + 12)
