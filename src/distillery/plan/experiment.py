"""The experiment file: its blocks and their defaults, and what follows from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from distillery.analysis.settings import IncrementalDynamics, LearningDynamics, Validity
from distillery.data.identity import same_class
from distillery.data.settings import Dataset, images_held_out
from distillery.data.sources import class_names, class_sizes
from distillery.diffusion.generators import AnyGenerator
from distillery.diffusion.settings import AnyAutoencoder, Autoencoder, Latents, LatentShape, PretrainedAutoencoder
from distillery.guidance.mode import Mode, ModeDiscovery
from distillery.guidance.registry import Guidances
from distillery.guidance.settings import Surrogate
from distillery.matching.settings import Experts, Matching
from distillery.methods.base import Method, smaller
from distillery.methods.lgd import GUIDED, LGD, Incremental
from distillery.methods.matched import Matched, last_epoch_read
from distillery.methods.matching import LD3M
from distillery.methods.mode_images import ModeImages
from distillery.methods.registry import AnyMethod
from distillery.methods.sampling import Sampled
from distillery.plan import layout
from distillery.plan.limits import Limits
from distillery.report.about import About
from distillery.report.tracking import AnyTracker
from distillery.settings import Block, Count, Images, Name, Repeats, Seed
from distillery.students.names import OURS
from distillery.students.settings import Evaluation, Network, Protocol, Recipe, Reference

T = TypeVar("T", bound=Method)


class Redundancy(Block):
    """How much of an increment a network knows that was trained on another one (fig. 2 of arXiv 2604.00519).

    A set that has no increments is cut into random disjoint parts.
    """

    methods: list[Name] = Field([], description="Of any kind; those of kind `full` are cut at random too.")
    baseline: Name | None = Field(None, description="The method that reductions are measured against.")
    ipc: Images | None = Field(None, description="The size of the sets that are cut, one of `ipc`; none: the largest.")
    increment_size: Images = Field(10, description="Images per class in one increment, or part.")
    network: Network | None = Field(None, description="None: the first network of the evaluation.")
    students: Repeats = 3


class Published(Block):
    """Which published numbers stand beside ours; only equal protocols are compared."""

    dataset: str = Field(description="As in the table of published numbers: imagenette, imagewoof, imagenet1k, …")
    methods: dict[Name, str] = Field(min_length=1, description="Our method -> its published name.")
    networks: dict[Name, Annotated[list[Network], Field(min_length=1)]] = Field(
        {},
        description="Our method -> the networks of the evaluation that are compared, where its published sets "
        "differ by network; all of them where a method is left out.",
    )


class Coverage(Block):
    """How much of the real set a distilled one reaches (precision, recall, density, coverage: arXiv 2002.09797)."""

    features: Name = Field(description="The network of `references` whose last hidden layer describes an image.")
    k: Count = Field(5, description="A ball around an image reaches to its k-th neighbour.")


class Neighbours(Block):
    """The nearest training image of every distilled image, beside the distances of test images: whether it copies."""

    features: Name = Field(description="The network of `references` whose last hidden layer describes an image.")
    ipc: Images | None = Field(None, description="The size of the sets, one of `ipc`; none: the largest.")
    pairs: Repeats = Field(10, description="Closest pairs that are shown.")


class SamplePath(Block):
    """Images of methods that are sampled again, with guidance and without, to record the steps to them."""

    methods: list[Name] = Field(min_length=1, description="Methods with guidances.")
    classes: list[str] | None = Field(None, min_length=1, description="None: the first three.")
    steps: Repeats = Field(10, description="Sampling steps that are recorded, evenly spaced.")


class Pictures(Block):
    """Figures of images and costs, which cost little."""

    contact_sheets: bool = Field(True, description="The images of the largest set of every method, class by class.")
    cost: bool = Field(True, description="Accuracy against GPU-hours, or core-hours where there was no card.")


class Gradients(Block):
    """How much of the gradient reaches the latents of LD3M, by steps and residual (table 1 of arXiv 2403.03881)."""

    method: Name = Field(description="A method of kind `ld3m`: its generator, objective and start; the rest is varied.")
    steps: list[Repeats] = Field([10, 20, 50], min_length=1)
    repeats: Repeats = Field(3, description="Gradients per cell, each of another network.")


class ChainSteps(Block):
    """Accuracy, time and memory of LD3M over the steps of its chain (fig. 4 of arXiv 2403.03881)."""

    methods: list[Name] = Field(
        min_length=1, description="Methods of kind `ld3m` that differ in `chain.steps`; the smallest size is drawn."
    )


class Analysis(Block):
    """What is measured beside accuracy."""

    redundancy: Redundancy = Redundancy()
    coverage: Coverage | None = Field(None, description="None: not measured.")
    neighbours: Neighbours | None = Field(None, description="None: not measured.")
    path: SamplePath | None = Field(None, description="None: not recorded.")
    pictures: Pictures = Pictures()
    published: Published | None = None
    gradients: Gradients | None = Field(None, description="None: not measured.")
    steps: ChainSteps | None = Field(None, exclude_if=lambda steps: steps is None, description="None: not drawn.")
    incremental_dynamics: IncrementalDynamics | None = Field(None, description="None: not measured.")
    learning_dynamics: LearningDynamics | None = Field(None, description="None: not measured.")
    validity: Validity | None = Field(None, description="None: not measured.")
    front: bool = Field(False, description="Accuracy against redundancy over all methods, as a table and a figure.")


class Experiment(Block):
    """An experiment file."""

    name: Name
    seeds: list[Seed] = Field(
        [0], min_length=1, description="The whole experiment but the data is repeated for each; tables join them."
    )
    shared_models: bool = Field(
        False,
        description="Autoencoder, generators, references, surrogates and experts are trained once for all seeds, with "
        "the first one; false: each seed trains its own.",
    )
    dataset: Dataset
    autoencoder: AnyAutoencoder = Autoencoder()
    guidance_autoencoder: PretrainedAutoencoder | None = Field(
        None, description="A small one for the same latents, which guidances decode with; none: the one that renders."
    )
    latents: Latents = Latents()
    generators: dict[Name, AnyGenerator] = Field({})
    references: dict[Name, Reference] = Field({})
    surrogates: dict[Name, Surrogate] = Field({})
    experts: dict[Name, Experts] = Field({})
    matching: Matching = Matching()
    methods: dict[Name, AnyMethod] = Field(min_length=1)
    ipc: list[Images] = Field(min_length=1, description="Images per class.")
    evaluation: Evaluation
    analysis: Analysis = Analysis()
    limits: Limits = Limits()
    tracking: AnyTracker | None = Field(None, description="Where histories of training are sent; none: nowhere.")
    variants: dict[Name, dict[str, Any]] = Field(
        {}, description="Blocks that one choice changes, merged deep into this file: one file for several class lists."
    )
    variant: Name | None = Field(None, description="The choice among `variants`; none: the file as it stands.")

    @cached_property
    def class_names(self) -> list[str]:
        """The classes as the data call them, in the order of their labels: `ingest` keeps those names."""
        known = class_names(self.dataset.source)
        return [same_class(name, known) or name for name in self.dataset.classes or known]

    @cached_property
    def classes(self) -> int:
        """How many classes the data has."""
        return len(self.dataset.classes or class_names(self.dataset.source))

    @property
    def about(self) -> About:
        """What its tables and figures say of it."""
        return About(
            experiment=self.name,
            dataset=f"{self.dataset.called} ({self.classes} classes of {self.dataset.resolution} px"
            f"{', ZCA' if self.dataset.zca else ''})",
            protocols=[protocol.label for protocol in self.evaluation.protocols],
        )

    @property
    def about_data(self) -> About:
        """The same for stages that evaluate nothing: they do not run again for another protocol."""
        return self.about.model_copy(update={"protocols": []})

    def tested(self, about: About) -> About:
        """What a table or figure says whose accuracies are of the images that networks are tested on."""
        split = self.evaluation.split
        dataset = about.dataset if split == "test" else f"{about.dataset.removesuffix(')')}; {split} images)"
        return about.model_copy(update={"dataset": dataset, "split": split})

    @cached_property
    def training_sizes(self) -> dict[str, int]:
        """Images of each class that are left for training, readable or not.

        Raises:
            SourceError: the source cannot be counted.
        """
        counts = class_sizes(self.dataset.source)
        names = list(counts)
        sizes: dict[str, int] = {}
        for name in [same_class(name, names) or name for name in self.dataset.classes or names]:
            sizes[name] = counts.get(name, 0)
            for block in (self.dataset.holdout, self.dataset.validation):
                sizes[name] -= 0 if block is None else images_held_out(sizes[name], block.fraction)
        return sizes

    @cached_property
    def latent_shape(self) -> LatentShape | None:
        """What latents are to images; None where nobody knows yet."""
        return self.autoencoder.latents

    @property
    def latent_side(self) -> int | None:
        """Side of the latents; None where nobody knows yet."""
        return None if self.latent_shape is None else self.dataset.resolution // self.latent_shape.factor

    @property
    def plain_convnet(self) -> str:
        """ConvNet-d for the side of the data: d = log2(side) - 2, and 1 at least."""
        return f"convnet{min(max(self.dataset.resolution.bit_length() - 3, 1), 9)}"

    # ---- seeds -------------------------------------------------------------------------------------------------------

    def seed(self, run: str) -> int:
        """The seed of a run by its place in the results: `seed-3/`, or nothing for the first one."""
        return int(run.removeprefix("seed-").rstrip("/")) if run else self.seeds[0]

    def run(self, seed: int) -> str:
        """The place of a seed's run in the results."""
        return "" if seed == self.seeds[0] else f"seed-{seed}/"

    def models_run(self, run: str) -> str:
        """The run that trains the models of a run: the first one, where runs share their models."""
        return "" if self.shared_models else run

    @property
    def model_runs(self) -> list[str]:
        """The runs that train models."""
        return list(dict.fromkeys(map(self.models_run, self.runs)))

    def autoencoder_run(self, run: str) -> str:
        """The run that the autoencoder and its latents belong to: one that is opened is the same for all runs."""
        return self.models_run(run) if self.autoencoder.stage == "train_autoencoder" else ""

    def path(self, pattern: layout.Pattern, *, run: str, **wildcards: object) -> str:
        """The path of a file of a run; what belongs to a model lies with the run that trains it."""
        return layout.fill(pattern, run=self.models_run(run) if pattern in layout.MODELS else run, **wildcards)

    @property
    def runs(self) -> list[str]:
        """The places of all runs."""
        return [self.run(seed) for seed in self.seeds]

    # ---- methods -----------------------------------------------------------------------------------------------------

    @property
    def distilling(self) -> list[str]:
        """The methods that make sets of a size, by name: all but those of all real images."""
        return sorted(name for name, method in self.methods.items() if method.sizes([1]) != ["full"])

    @property
    def redundancy_ipc(self) -> int:
        """Images per class of the sets whose redundancy is measured."""
        return self.analysis.redundancy.ipc or max(self.ipc)

    @property
    def neighbours_ipc(self) -> int:
        """Images per class of the sets whose nearest training images are looked for."""
        neighbours = self.analysis.neighbours
        return (neighbours and neighbours.ipc) or max(self.ipc)

    @property
    def path_classes(self) -> list[str]:
        """The classes whose samples are traced, as the data call them."""
        path = self.analysis.path
        wanted = (path and path.classes) or self.class_names[:3]
        return [same_class(name, self.class_names) or name for name in wanted]

    def first_slot_of_last_part(self, method: str) -> int:
        """The first slot of the last increment of a method, or of the images that its largest set adds."""
        block, largest = self.methods[method], max(self.ipc)
        if block.incremental:
            return (self.increments(method) - 1) * self.loop(method).increment_size
        return self.smaller(largest) if block.nested else 0

    def shared_jobs(self, method: str) -> list[str]:
        """The jobs that a method's sets need and that serve others too, by the names of their records of cost.

        `<name>/` stands for the jobs of another method, whose set is used.
        """
        block, jobs = self.methods[method], list[str]()
        generator = block.needs.generator
        if generator is not None or block.needs.autoencoder:
            trained = self.autoencoder.stage == "train_autoencoder"
            jobs.append("train_autoencoder" if trained else "open_autoencoder-autoencoder")
        while generator is not None:
            made = self.generators[generator]
            jobs += [f"{made.stage}-{part}" for part in self.generator_parts(generator)]
            if not made.opened:
                jobs += [f"encode_latents-{shard}" for shard in range(self.latents.shards)]
            generator = made.starts_from
        references = {block.needs.reference, block.needs.features, *block.judges}
        jobs += [f"train_reference-{name}" for name in references if name is not None]
        jobs += [f"extract_features-{block.needs.features}"] if block.needs.features else []
        if block.needs.modes:
            jobs += [f"encode_latents-{shard}" for shard in range(self.latents.shards)]
        if experts := block.needs.experts:
            jobs += [f"train_experts-{experts}-{shard}" for shard in range(self.experts[experts].shards)]
        jobs += ["fit_whitening"] if block.stage == "match" and self.dataset.zca else []
        for name in self.guidance(method).surrogates:
            jobs += [f"train_surrogate-{name}", f"select_checkpoints-{name}"]
        for name in block.uses_sets_of:
            jobs += [f"{name}/", *self.shared_jobs(name)]
        return sorted({*jobs})

    def cut(self, method: str) -> Literal["slots", "random", "real"]:
        """How the set of a method is cut into parts."""
        if self.methods[method].sizes([1]) == ["full"]:
            return "real"
        return "slots" if self.methods[method].cut_by_slot else "random"

    def made_by(self, stage: str) -> list[str]:
        """The methods whose sets a stage makes."""
        return [name for name, method in self.methods.items() if method.stage == stage]

    def method_of(self, name: str, kind: type[T]) -> T:
        """A method by its name, of a kind that the caller's stage makes."""
        method = self.methods[name]
        assert isinstance(method, kind)
        return method

    def loop(self, name: str) -> Incremental:
        """A method that works in increments, by its name."""
        return self.method_of(name, Incremental)

    def increments(self, name: str) -> int:
        """How many increments the largest set of such a method has."""
        return self.loop(name).increments(self.ipc)

    def student_networks(self, name: str) -> list[str]:
        """The architectures of the students of such a method; the first one is that of the first student."""
        loop = self.loop(name)
        return loop.student.networks or [self.references[loop.reference].network]

    def student_teacher(self, name: str) -> str | None:
        """The reference that gives soft labels to the students of such a method; None where their labels are hard."""
        loop = self.loop(name)
        protocol = loop.student.protocol or self.evaluation.protocols[0]
        recipe = self.recipe(protocol, self.student_networks(name)[0], loop.increment_size)
        return recipe.teacher if recipe.labels == "soft" else None

    @property
    def several_students(self) -> list[str]:
        """The methods whose students have more than the weights of one network at its end."""
        return [name for name, method in self.methods.items() if method.incremental and self.loop(name).student.several]

    @property
    def chain_steps(self) -> dict[str, int]:
        """The steps of the chain of each method that is drawn over them."""
        steps = self.analysis.steps
        return {name: self.method_of(name, LD3M).chain.steps for name in (steps.methods if steps else ())}

    def comparing(self, name: str) -> str:
        """The network that a method which optimises images compares with."""
        return self.method_of(name, Matched).comparing(self)

    def first_of(self, kind: str) -> str | None:
        """The first method of a kind, by name."""
        return min((name for name, method in self.methods.items() if method.kind == kind), default=None)

    def stream(self, method: str) -> str:
        """The name of the stream that a method draws from."""
        return self.methods[method].stream_of(method)

    def smaller(self, ipc: int) -> int:
        """The next smaller size, or 0: a set begins with the smaller ones, and a job makes only what it adds."""
        return smaller(ipc, self.ipc)

    def lineage(self, run: str, method: str, ipc: int) -> dict[str, Any]:
        """What the file of a distilled set says of its making, as `plan.lineage` has it."""
        from distillery.plan.lineage import lineage

        return lineage(self, run, method, ipc)

    # ---- guidances ---------------------------------------------------------------------------------------------------

    def guidance(self, method: str) -> Guidances:
        """The guidances of a method as the file has them; none where it does not sample."""
        block = self.methods[method]
        return block.guidance if isinstance(block, Sampled) else Guidances()

    def resolved_guidance(self, method: str) -> Guidances:
        """The guidances of a method that samples, with indices in place of defaults."""
        sampled = self.method_of(method, Sampled)
        return sampled.guidance.resolved(self.generators[sampled.generator].sampling.steps)

    def increment_guidance(self, method: str, k: int) -> Guidances:
        """The guidances of an increment, with indices: the first has no learnability, and others if it is guided."""
        guidance = self.resolved_guidance(method)
        if k > 1:
            return guidance.at_increment(k)
        return guidance.replaced(learnability=None) if self.method_of(method, LGD).seed == GUIDED else Guidances()

    def mode(self, method: str) -> Mode:
        """The mode guidance of a method that has one."""
        mode = self.guidance(method).get(Mode)
        assert mode is not None
        return mode

    def mode_discovery(self, method: str) -> ModeDiscovery:
        """How the modes are found that a method selects by, or has its images drawn to."""
        block = self.methods[method]
        return block.modes if isinstance(block, ModeImages) else self.mode(method)

    def modes(self, method: str, ipc: int) -> int:
        """How many modes of each class the images of a size are drawn to."""
        mode = self.mode(method)
        return mode.count or (max(self.ipc) if self.methods[method].nested else ipc)

    def guidance_files(self, run: str, method: str, ipc: int | None = None) -> dict[str, list[str]]:
        """The files of each guidance of a method, in the order in which stages take them.

        Args:
            ipc: the size that is sampled; None: all sizes at once, in increments.
        """
        return self.guidance(method).files(MethodFiles(self, run, method, ipc or max(self.ipc)))

    def increment_files(self, run: str, method: str, k: int) -> dict[str, list[str]]:
        """The files of each guidance of an increment, in the order in which the stage takes them."""
        return self.increment_guidance(method, k).files(MethodFiles(self, run, method, max(self.ipc)))

    @property
    def resolved(self) -> dict[str, Any]:
        """The experiment as a file would have it that leaves nothing to a default: loaded, it asks for the same jobs.

        The chosen variant is merged in, class lists are written out, and guidances have sampling indices.
        """
        blocks = self.model_dump(mode="json", exclude={"variants", "variant"})
        for name, method in self.methods.items():
            if isinstance(method, Sampled):
                off = dict.fromkeys(method.published)  # those of its kind that the file switches off stay so
                blocks["methods"][name]["guidance"] = off | self.resolved_guidance(name).model_dump(mode="json")
        return blocks

    # ---- networks ----------------------------------------------------------------------------------------------------

    def recipe(self, protocol: Protocol, network: str, ipc: int | str, method: str | None = None) -> Recipe:
        """The constants of a protocol for one network and one size: images per class, or `full`.

        Args:
            method: whose images the network is trained on; None: real ones. What a protocol does with generated
                images alone is done where the method has a generator.
        """
        size: int | Literal["full"] = "full" if ipc == "full" else int(ipc)
        recipe = protocol.recipe(network=network, ipc=size, classes=self.classes)
        changed: dict[str, object] = {}
        if recipe.normalize == "dataset":
            changed["normalize"] = self.dataset.normalization
        if recipe.svhn_mean and not (method and self.methods[method].needs.generator):
            changed["svhn_mean"] = False
        return recipe.model_copy(update=changed) if changed else recipe

    def network_check(self, network: str, side: int | None, need: str = "trained") -> list[str]:
        """The check that a network of timm takes images of a side, None: as they are stored; ours need none.

        Args:
            need: `trained`, `compared`, or that its `features` are read.
        """
        if OURS.fullmatch(network):
            return []
        side = side or self.dataset.resolution
        return [layout.fill(layout.CHECKED_NETWORK, foreign=network, side=side, need=need)]

    def experts_network(self, experts: str) -> str:
        """The network of experts."""
        return self.experts[experts].network or self.plain_convnet

    def experts_epochs(self, experts: str) -> int:
        """How many epochs experts are trained: those that methods read, unless the experts say otherwise."""
        return self.experts[experts].epochs or last_epoch_read(self.methods, experts)

    # ---- weights from elsewhere, generators --------------------------------------------------------------------------

    @property
    def opened_autoencoders(self) -> list[str]:
        """The keys of the autoencoders that are opened, not trained."""
        blocks = {"autoencoder": self.autoencoder, "guidance_autoencoder": self.guidance_autoencoder}
        return [key for key, block in blocks.items() if block is not None and block.stage == "open_autoencoder"]

    def generators_of(self, stage: str) -> list[str]:
        """The generators that a stage makes."""
        return [name for name, generator in self.generators.items() if generator.stage == stage]

    def generator_parts(self, name: str) -> list[str]:
        """The names of the files of a generator: its own, or one for each group of classes."""
        groups = self.generators[name].class_groups
        return [name] if groups == 1 else [f"{name}-group-{group}" for group in range(groups)]

    def generator_parts_of(self, stage: str) -> list[str]:
        """The names of the files of all generators that a stage makes."""
        return [part for name in self.generators_of(stage) for part in self.generator_parts(name)]

    @cached_property
    def parts_of_generators(self) -> dict[str, tuple[str, int | None]]:
        """The entry of `generators` and the group of classes behind each name of files; None: it is for all classes."""
        return {
            part: (name, None if part == name else group)
            for name in self.generators
            for group, part in enumerate(self.generator_parts(name))
        }

    def images_of_groups(self, name: str) -> list[int]:
        """Training images of each group of classes of a generator: group g has every `groups`-th class from g on."""
        sizes, groups = [*self.training_sizes.values()], self.generators[name].class_groups
        return [sum(sizes[group::groups]) for group in range(groups)]


@dataclass(frozen=True)
class MethodFiles:
    """`GuidanceFiles` of one method of a run.

    Attributes:
        run: place of the run in the results.
        ipc: the size that is sampled.
    """

    experiment: Experiment
    run: str
    method: str
    ipc: int

    def gradients(self, surrogate: str) -> str:
        """The output of `select_checkpoints` for a surrogate."""
        return self.experiment.path(layout.GRADIENTS, run=self.run, surrogate=surrogate)

    def modes(self, count: int | None) -> str:
        """The output of `discover_modes`, `count` modes per class; None: one per image."""
        modes = count or self.experiment.modes(self.method, self.ipc)
        return layout.fill(layout.MODES, run=self.run, method=self.method, modes=modes)

    def latents(self) -> list[str]:
        """The latents of the training images."""
        run = self.experiment.autoencoder_run(self.run)
        return [layout.fill(layout.LATENTS, run=run, shard=shard) for shard in range(self.experiment.latents.shards)]


def schema() -> dict[str, Any]:
    """The JSON schema of an experiment file, for editors; `python -m distillery.plan.experiment` prints it.

    Regenerate: `python -m distillery.plan.experiment > workflow/schemas/experiment.schema.json`.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Experiment.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, sort_keys=True))
