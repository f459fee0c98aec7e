"""Memory, time and disk that the dear jobs of an experiment take at least, told before anything runs.

Each estimate is a lower bound, so that what is refused would fail. Memory holds weights, their gradients, the moments
of the optimizer, averages, and the inputs of layers that a backward pass needs; image tables and latents lie in files
that the system maps. Time is that of products of matrices at a rate that no card reaches, or that of starting so many
steps. Of networks of timm, and of weights that are not here, nothing is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from distillery.counts import Counts
from distillery.diffusion.counts import autoencoder_counts, transformer_counts
from distillery.diffusion.generators import Training
from distillery.diffusion.settings import Autoencoder, TransformerShape
from distillery.methods.best_of import BestOf
from distillery.methods.lgd import LGD
from distillery.methods.matched import Matched
from distillery.methods.sampling import Sampled
from distillery.plan.experiment import Experiment
from distillery.students.counts import network_counts
from distillery.students.settings import Recipe

STEP_SECONDS = 1e-4
"""Least time of one step of an optimizer, however small the network: it starts dozens of kernels."""

IN_MEMORY = 2.0**30
"""Bytes of a decoded table that are in memory; a larger one lies in a file that the system maps."""


@dataclass(frozen=True)
class Estimate:
    """What one job of a stage takes at least.

    Attributes:
        memory: key of the experiment file -> bytes that it causes.
        operations: floating-point operations of one process.
        steps: of an optimizer, one after another.
        time_key: the key that sets how long it takes.
        disk: key -> bytes of all files of the stage, over all jobs and seeds.
    """

    stage: str
    memory: Mapping[str, float] = field(default_factory=dict)
    operations: float = 0.0
    steps: float = 0.0
    time_key: str = ""
    disk: Mapping[str, float] = field(default_factory=dict)

    def seconds(self, teraflops: float) -> float:
        """Least time at this rate."""
        return max(self.operations / (teraflops * 1e12), self.steps * STEP_SECONDS)


def estimates(experiment: Experiment) -> Iterator[Estimate]:
    """The estimates of all dear jobs, of the largest of each kind."""
    yield from _autoencoder(experiment)
    yield from _latents(experiment)
    yield from _generators(experiment)
    yield from _references(experiment)
    yield from _sampled(experiment)
    yield from _students(experiment)
    yield from _experts(experiment)
    yield from _matched(experiment)
    yield from _chosen(experiment)
    yield from _evaluation(experiment)


# ---- autoencoder and generators --------------------------------------------------------------------------------------


def _autoencoder(experiment: Experiment) -> Iterator[Estimate]:
    if experiment.autoencoder.stage != "train_autoencoder" or not _uses_latents(experiment):
        return
    block = Autoencoder.model_validate(experiment.autoencoder)
    counts = autoencoder_counts(
        block.block_out_channels, block.layers_per_block, channels_of(experiment), experiment.dataset.resolution
    )
    kept = counts.kept * block.batch_size * _bytes(block.precision)
    yield Estimate(
        "train_autoencoder",
        {
            "autoencoder.block_out_channels": 4 * counts.parameters * (4 + (block.ema_decay is not None)),
            "autoencoder.batch_size": kept,
        },
        6 * counts.products * block.steps * block.batch_size,
        block.steps,
        "autoencoder.steps",
    )


def _latents(experiment: Experiment) -> Iterator[Estimate]:
    trained = experiment.generators_of("train_generator") + experiment.generators_of("finetune_generator")
    if not trained and not any(method.needs.modes for method in experiment.methods.values()):
        return
    latents, numbers = experiment.latents, latent_numbers(experiment)
    size = (
        2
        * (1 + latents.mirrored)
        * (4 if latents.precision == "float32" else 2)
        * numbers
        * training_images(experiment)
    )
    runs = len({experiment.autoencoder_run(run) for run in experiment.runs})
    yield Estimate("encode_latents", disk={"dataset.resolution": size * runs})


def _generators(experiment: Experiment) -> Iterator[Estimate]:
    sizes = {"train_generator": "num_layers", "finetune_generator": "trainable"}
    for name in [name for stage in sizes for name in experiment.generators_of(stage)]:
        block, key = Training.model_validate(experiment.generators[name]), f"generators.{name}"
        counts, shape, stage = (
            transformer_of(experiment, name),
            generator_shape(experiment, name),
            experiment.generators[name].stage,
        )
        steps = block.steps_on(max(experiment.images_of_groups(name)))
        kept = counts.kept if block.trains_all else 0.0
        if block.gradient_checkpointing:
            kept = min(kept, shape.layers * shape.width * shape.tokens)
        yield Estimate(
            stage,
            {
                # weights, gradients, two moments of AdamW and the average
                f"{key}.{sizes[stage]}": 4 * counts.parameters * (5 if block.trains_all else 1),
                f"{key}.batch_size": kept
                * block.batch_size
                / block.processes
                / block.accumulate
                * _bytes(block.precision),
            },
            (6 if block.trains_all else 4) * counts.products * steps * block.batch_size / block.processes,
            float(steps) * block.accumulate,
            f"{key}.{block.length_key}",
        )


def transformer_of(experiment: Experiment, name: str | None) -> Counts:
    """The counts of a generator; none where nobody knows its shape yet."""
    shape = generator_shape(experiment, name)
    return transformer_counts(shape.layers, shape.width, shape.tokens)


def generator_shape(experiment: Experiment, name: str | None) -> TransformerShape:
    """The shape of a generator; of no layers where nobody knows it yet."""
    block = experiment.generators.get(name or "")
    for _ in experiment.generators:
        if block is not None and block.starts_from is not None:
            block = experiment.generators.get(block.starts_from)
    shape = None if block is None else block.transformer(experiment.latent_side)
    return shape or TransformerShape(0, 0, 0)


def _sampled(experiment: Experiment) -> Iterator[Estimate]:
    """The largest job of each method that samples: its share of the classes, with all candidates."""
    for name in [*experiment.made_by("sample"), *experiment.made_by("generate_increment")]:
        method, key, size = experiment.method_of(name, Sampled), "ipc", 0
        if method.incremental:
            lgd = experiment.method_of(name, LGD)
            key, size = f"methods.{name}.candidates", lgd.increment_size * lgd.candidates
        else:  # what a size adds to the one before
            size = max(ipc - (experiment.smaller(ipc) if method.nested else 0) for ipc in experiment.ipc)
        counts, sampling = (
            transformer_of(experiment, method.generator),
            experiment.generators[method.generator].sampling,
        )
        images = -(-experiment.classes // method.shards) * size
        passes = sampling.steps * (1 if sampling.guidance_scale == 1 else 2)
        memory = {f"methods.{name}.generator": 2 * counts.parameters}
        yield Estimate(method.stage, memory, 2 * counts.products * passes * images, 0.0, key)


# ---- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Keys:
    """Where an experiment says how networks are trained."""

    network: str
    epochs: str
    batch_size: str

    @classmethod
    def of(cls, block: str, protocol: str) -> Keys:
        """The keys of a block that names a network, and of its protocol."""
        return cls(block, f"{protocol}.epochs", f"{protocol}.batch_size")


def _training(
    experiment: Experiment,
    stage: str,
    keys: Keys,
    network: str,
    recipe: Recipe,
    images: int,
    *,
    networks: int = 1,
    time_key: str = "",
) -> Estimate:
    """Networks of one architecture, trained on so many images each, at once or one after another."""
    counts = network_of(experiment, network, recipe)
    states = (4 if recipe.optimizer == "adamw" else 3 if recipe.momentum else 2) + (recipe.ema_decay > 0)
    passes = 6 * counts.products
    if recipe.teacher in experiment.references and (recipe.soft_labels == "online" or stage != "evaluate"):
        passes += 2 * network_of(experiment, experiment.references[str(recipe.teacher)].network, recipe).products
    return Estimate(
        stage,
        {
            keys.network: 4 * counts.parameters * states,
            keys.batch_size: 2 * counts.kept * min(recipe.batch_size, images),
            "dataset.resolution": min(float(images * _numbers(experiment)), IN_MEMORY),
        },
        passes * images * recipe.epochs * networks,
        float(recipe.epochs) * max(images // recipe.batch_size, 1),
        time_key or keys.epochs,
    )


def network_of(experiment: Experiment, network: str, recipe: Recipe | None = None) -> Counts:
    side = (recipe.size if recipe else None) or experiment.dataset.resolution
    return network_counts(network, side, channels_of(experiment), experiment.classes)


def _references(experiment: Experiment) -> Iterator[Estimate]:
    for name, reference in experiment.references.items():
        if reference.weights is None:
            keys = Keys.of(f"references.{name}.network", f"references.{name}.training")
            recipe = experiment.recipe(reference.training, reference.network, "full")
            yield _training(experiment, "train_reference", keys, reference.network, recipe, training_images(experiment))
    for name, surrogate in experiment.surrogates.items():
        if surrogate.checkpoints is not None:
            continue
        keys = Keys.of(f"surrogates.{name}.network", f"surrogates.{name}.training")
        recipe = experiment.recipe(surrogate.training, surrogate.network, "full")
        states = 4 * (recipe.epochs + 1) * network_of(experiment, surrogate.network, recipe).parameters
        trained = _training(experiment, "train_surrogate", keys, surrogate.network, recipe, training_images(experiment))
        memory = {**trained.memory, keys.epochs: states}
        yield replace(trained, memory=memory, disk={keys.epochs: states * len(experiment.model_runs)})


def _students(experiment: Experiment) -> Iterator[Estimate]:
    """The last students of each method that works in increments, which one job trains one after another."""
    for name in (name for name, method in experiment.methods.items() if method.incremental):
        method = experiment.loop(name)
        own = method.student.protocol
        protocol = f"methods.{name}.student.protocol" if own else "evaluation.protocol"
        keys = Keys.of(f"methods.{name}.student.networks", protocol)
        images, number = max(experiment.ipc) * experiment.classes, method.student.students
        trained = []
        for network in experiment.student_networks(name):
            recipe = experiment.recipe(own or experiment.evaluation.protocols[0], network, max(experiment.ipc))
            time_key = f"methods.{name}.student.students" if number > recipe.epochs else ""
            trained.append(
                _training(
                    experiment, "train_student", keys, network, recipe, images, networks=number, time_key=time_key
                )
            )
        operations, steps = sum(each.operations for each in trained), number * sum(each.steps for each in trained)
        yield from (replace(each, operations=operations, steps=steps) for each in trained)


def _evaluation(experiment: Experiment) -> Iterator[Estimate]:
    evaluation, classes = experiment.evaluation, experiment.classes
    sizes = [size for method in experiment.methods.values() for size in method.sizes(experiment.ipc)]
    for protocol in evaluation.protocols:
        keys = Keys.of("evaluation.networks", "evaluation.protocol")
        labels = 0.0
        for size in sizes:
            images = training_images(experiment) if size == "full" else int(size) * classes
            stored = experiment.recipe(protocol, evaluation.networks[0], size)
            if (stored.labels, stored.soft_labels) == ("soft", "stored"):
                labels += 2.0 * stored.epochs * images * classes * len(experiment.seeds)
        yield Estimate("store_soft_labels", disk={"evaluation.protocol.soft_labels": labels} if labels else {})
        for size in dict.fromkeys(sizes):
            images = training_images(experiment) if size == "full" else int(size) * classes
            for network in evaluation.networks:
                recipe, number = experiment.recipe(protocol, network, size), evaluation.students
                time_key = "evaluation.students" if number > recipe.epochs else ""
                yield _training(
                    experiment, "evaluate", keys, network, recipe, images, networks=number, time_key=time_key
                )
    redundancy = experiment.analysis.redundancy
    if redundancy.methods:
        network, size = redundancy.network or evaluation.networks[0], redundancy.increment_size
        recipe = experiment.recipe(evaluation.protocols[0], network, size)
        number = redundancy.students * (experiment.redundancy_ipc // size)
        keys = Keys.of("analysis.redundancy.network", "evaluation.protocol")
        time_key = "analysis.redundancy.students" if number > recipe.epochs else ""
        yield _training(
            experiment, "measure_redundancy", keys, network, recipe, size * classes, networks=number, time_key=time_key
        )


# ---- matching --------------------------------------------------------------------------------------------------------


def _experts(experiment: Experiment) -> Iterator[Estimate]:
    for name, block in experiment.experts.items():
        if block.files is not None:
            continue
        key, epochs, counts = (
            f"experts.{name}",
            experiment.experts_epochs(name),
            network_of(experiment, experiment.experts_network(name)),
        )
        images, number = training_images(experiment), min(block.per_shard, block.count)
        trajectory = 4 * (epochs + 1) * counts.parameters
        yield Estimate(
            "train_experts",
            {
                f"{key}.per_shard": number * trajectory,
                f"{key}.batch_size": 4 * counts.kept * min(block.batch_size, images),
                "dataset.resolution": images * _numbers(experiment),
            },
            6 * counts.products * images * epochs * number,
            float(epochs) * number * max(images // block.batch_size, 1),
            f"{key}.epochs",
            {f"{key}.count": block.count * trajectory * len(experiment.model_runs)},
        )


def _matched(experiment: Experiment) -> Iterator[Estimate]:
    """The largest size of each method that optimises images, and the snapshots of all of them."""
    matching, largest = experiment.matching, max(experiment.ipc)
    sizes = list(experiment.training_sizes.values())
    for name in experiment.made_by("match"):
        method = experiment.method_of(name, Matched)
        key, images = f"methods.{name}", largest * experiment.classes / method.shards
        snapshots, steps = method.iterations // matching.every + 1, float(method.iterations) * method.updates
        passes = method.passes([size / method.shards for size in sizes], images)
        operations = 2 * network_of(experiment, method.comparing(experiment)).products * passes * steps
        chain = transformer_of(experiment, method.needs.generator).products * method.chain_passes
        operations += 6 * chain * images * steps
        kept = 4.0 * method.numbers(_numbers(experiment), latent_numbers(experiment)) * snapshots
        yield Estimate(
            "match",
            {
                "matching.every": kept * images,
                "dataset.resolution": sum(sizes) * _numbers(experiment),
            },
            operations,
            steps,
            f"{key}.iterations",
            {"matching.every": kept * sum(experiment.ipc) * experiment.classes * len(experiment.seeds)},
        )
        if matching.choose == "best":
            network = matching.network or experiment.comparing(name)
            recipe = experiment.recipe(matching.protocol or experiment.evaluation.protocols[0], network, largest)
            keys = Keys.of("matching.network", "matching.protocol" if matching.protocol else "evaluation.protocol")
            yield _training(
                experiment,
                "choose_snapshot",
                keys,
                network,
                recipe,
                largest * experiment.classes,
                networks=matching.students * snapshots,
                time_key="matching.every" if snapshots > recipe.epochs else "",
            )


def _chosen(experiment: Experiment) -> Iterator[Estimate]:
    """The largest size of each method that chooses among sets."""
    largest = max(experiment.ipc)
    for name in experiment.made_by("choose_set"):
        method, key = experiment.method_of(name, BestOf), f"methods.{name}"
        trained, networks = method.trained(key, experiment), method.students * len(method.methods)
        recipe = experiment.recipe(trained.protocol, trained.network, largest)
        yield _training(
            experiment,
            "choose_set",
            Keys.of(f"{key}.network", f"{key}.protocol" if method.protocol else "evaluation.protocol"),
            trained.network,
            recipe,
            largest * experiment.classes,
            networks=networks,
            time_key=f"{key}.students" if networks > recipe.epochs else "",
        )


# ---- numbers ---------------------------------------------------------------------------------------------------------


def training_images(experiment: Experiment) -> int:
    """Training images."""
    return sum(experiment.training_sizes.values())


def channels_of(experiment: Experiment) -> int:
    return 1 if experiment.dataset.channels == "grey" else 3


def _numbers(experiment: Experiment) -> int:
    """Of an image, each a byte in a decoded table."""
    return channels_of(experiment) * experiment.dataset.resolution**2


def latent_numbers(experiment: Experiment) -> int:
    """Of a latent; 0 where nobody knows its shape yet."""
    shape, side = experiment.latent_shape, experiment.latent_side
    return shape.channels * side**2 if shape and side else 0


def _bytes(precision: str) -> int:
    """Of a number that a layer keeps; auto: as on a GPU."""
    return 4 if precision == "float32" else 2


def _uses_latents(experiment: Experiment) -> bool:
    return any(method.needs.autoencoder for method in experiment.methods.values()) or bool(experiment.generators)
