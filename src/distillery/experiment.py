"""The experiment file: its blocks, its defaults, and what cannot go together.

Everything is refused before a job is planned, with the path of the key and what is allowed there.
"""

from __future__ import annotations

import difflib
import json
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from distillery.data.identity import same_class
from distillery.data.settings import Dataset
from distillery.data.sources import class_names, class_sizes
from distillery.diffusion.folders import WeightsError, check_stated, stated_config
from distillery.diffusion.settings import (
    AnyAutoencoder,
    AnyGenerator,
    Autoencoder,
    FinetunedGenerator,
    Generator,
    Latents,
    Pretrained,
    PretrainedAutoencoder,
    PretrainedGenerator,
)
from distillery.guidance.settings import (
    IGD,
    MGD3,
    Calibration,
    Deviation,
    Influence,
    Learnability,
    Mode,
    Surrogate,
)
from distillery.matching import checks
from distillery.matching.settings import IDC, LD3M, MATCHED, Experts, Latent, Matched, Matching, Pixels
from distillery.selection.settings import Full, Herding, KCenter, Random, RealByLearnability
from distillery.settings import Block, Count, Fraction, Name
from distillery.students.names import refused_side
from distillery.students.settings import Evaluation, Network, Protocol, Recipe, Reference, Student


class Plain(Block):
    """Plain sampling of the generator: no guidance (method DiT)."""

    kind: Literal["plain"]
    generator: Name
    stream: str | None = Field(
        None, description="Methods of one stream share all their noise; none: the method's name."
    )
    shards: Count = Field(1, description="Jobs that the classes are spread over.")


class LGD(Block):
    """Learnability-guided diffusion (arXiv 2604.00519)."""

    kind: Literal["lgd"]
    generator: Name
    reference: Name = Field(description="The network that says what is valid.")
    seed: Name = Field("plain", description="First increment: `plain`, or the name of another method.")
    increment_size: Count = Field(10, description="Images per class in one increment.")
    candidates: Count = Field(3, description="Kappa: images drawn per slot, of which one is kept.")
    choose: Literal["learnability", "random"] = "learnability"
    min_reference_probability: Fraction = Field(0.0, description="Candidates below it are left out; 0: none are.")
    student: Student = Student()
    learnability: Learnability = Learnability()
    deviation: Deviation = Deviation()
    influence: Influence | None = Field(None, description="Influence (IGD) as a further guidance, after increment 1.")
    mode: Mode | None = Field(None, description="Modes (MGD3) as a further guidance, after increment 1.")
    calibration: Calibration = Calibration()
    stream: str | None = Field(
        None, description="Methods of one stream share all their noise; none: the method's name."
    )
    shards: Count = Field(1, description="Jobs that the classes are spread over.")

    @property
    def calibrates(self) -> bool:
        """Whether a pilot chooses a strength or a weight."""
        return "auto" in (self.learnability.strength, self.learnability.reference_weight)


Method = Annotated[
    Plain | LGD | IGD | MGD3 | LD3M | Latent | Pixels | IDC | Random | Herding | KCenter | RealByLearnability | Full,
    Field(discriminator="kind"),
]

REAL = ("random", "herding", "k_center")
"""The kinds of method that choose real images at once."""

CHOOSING = (*REAL, "real_by_learnability")
"""The kinds of method that choose real images."""

GUIDED = ("igd", "mgd3")
"""The kinds of method whose sampler is guided, and that make no increments."""


class Redundancy(Block):
    """How much of an increment a network knows that was trained on another one (fig. 2 of arXiv 2604.00519)."""

    methods: list[Name] = Field([])
    baseline: Name | None = Field(None, description="The method that reductions are measured against.")
    increment_size: Count = 10
    network: Network | None = Field(None, description="None: the first network of the evaluation.")
    students: Count = 3


class Published(Block):
    """Which published numbers stand beside ours; only equal protocols are compared."""

    dataset: str = Field(description="As in the table of published numbers: imagenette, imagewoof, imagenet1k, …")
    methods: dict[Name, str] = Field(min_length=1, description="Our method -> its published name.")


class Coverage(Block):
    """How much of the real set a distilled one reaches (precision, recall, density, coverage: arXiv 2002.09797)."""

    features: Name = Field(description="The network of `references` whose last hidden layer describes an image.")
    k: Count = Field(5, description="A ball around an image reaches to its k-th neighbour.")


class Gradients(Block):
    """How much of the gradient reaches the latents of LD3M, by steps and residual (table 1 of arXiv 2403.03881)."""

    method: Name = Field(description="A method of kind `ld3m`: its generator, objective and start; the rest is varied.")
    steps: list[Count] = Field([10, 20, 50], min_length=1)
    repeats: Count = Field(3, description="Gradients per cell, each of another network.")


class Analysis(Block):
    """What is measured beside accuracy."""

    redundancy: Redundancy = Redundancy()
    coverage: Coverage | None = Field(None, description="None: not measured.")
    published: Published | None = None
    gradients: Gradients | None = Field(None, description="None: not measured.")
    front: bool = Field(False, description="Accuracy against redundancy over all methods, as a table and a figure.")


class Experiment(Block):
    """An experiment file."""

    name: Name
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="The whole experiment but the data is repeated for each; tables join them."
    )
    dataset: Dataset
    autoencoder: AnyAutoencoder = Autoencoder()
    guidance_autoencoder: PretrainedAutoencoder | None = Field(
        None, description="A small one for the same latents, which guidances decode with; none: the one that renders."
    )
    latents: Latents = Latents()
    generators: dict[Name, AnyGenerator]
    references: dict[Name, Reference] = Field({})
    surrogates: dict[Name, Surrogate] = Field({})
    experts: dict[Name, Experts] = Field({})
    matching: Matching = Matching()
    methods: dict[Name, Method] = Field(min_length=1)
    ipc: list[Count] = Field(min_length=1, description="Images per class.")
    evaluation: Evaluation
    analysis: Analysis = Analysis()

    @cached_property
    def classes(self) -> int:
        """How many classes the data has."""
        return len(self.dataset.classes or class_names(self.dataset.source))

    def recipe(self, protocol: Protocol, network: str, ipc: int | str) -> Recipe:
        """The constants of a protocol for one network and one size: images per class, or `full`."""
        size: int | Literal["full"] = "full" if ipc == "full" else int(ipc)
        return protocol.recipe(network=network, ipc=size, classes=self.classes)

    def sizes(self, method: str) -> list[int] | list[str]:
        """The sizes that a method is evaluated at."""
        return ["full"] if self.methods[method].kind == "full" else sorted(self.ipc)

    def first_of(self, kind: str) -> str | None:
        """The first method of a kind, by name."""
        return min((name for name, method in self.methods.items() if method.kind == kind), default=None)

    def increments(self, method: str) -> int:
        """How many increments the largest set of an LGD method has."""
        return max(self.ipc) // self.loop(method).increment_size

    def smaller(self, ipc: int) -> int:
        """The next smaller size, or 0: a set begins with the smaller ones, and a job makes only what it adds."""
        return max((size for size in self.ipc if size < ipc), default=0)

    def lgd(self, method: str) -> LGD:
        """An LGD method by its name."""
        found = self.methods[method]
        assert isinstance(found, LGD)
        return found

    def loop(self, method: str) -> LGD | RealByLearnability:
        """A method that works in increments, by its name."""
        found = self.methods[method]
        assert isinstance(found, LGD | RealByLearnability)
        return found

    def guided(self, method: str) -> IGD | MGD3:
        """A method of guided sampling by its name."""
        found = self.methods[method]
        assert isinstance(found, IGD | MGD3)
        return found

    def matched(self, method: str) -> Matched:
        """A method that optimises images, by its name."""
        found = self.methods[method]
        assert isinstance(found, LD3M | Latent | Pixels | IDC)
        return found

    @property
    def plain_convnet(self) -> str:
        """ConvNet-d for the side of the data: d = log2(side) - 2, and 1 at least."""
        return f"convnet{min(max(self.dataset.resolution.bit_length() - 3, 1), 9)}"

    def experts_network(self, experts: str) -> str:
        """The network of experts."""
        return self.experts[experts].network or self.plain_convnet

    def experts_epochs(self, experts: str) -> int:
        """How many epochs experts are trained: those that methods read, unless the experts say otherwise."""
        return self.experts[experts].epochs or checks.last_epoch(self.methods, experts)

    def comparing(self, method: str) -> str:
        """The network that a method which optimises images compares with."""
        found = self.matched(method)
        name = checks.experts_of(found)
        return found.network or (self.experts_network(name) if name in self.experts else self.plain_convnet)

    @property
    def held_out(self) -> float:
        """Share of each class that methods which optimise images never see, because it chooses among snapshots."""
        return self.matching.holdout if self.matching.choose == "best" else 0.0

    def mode(self, method: str) -> Mode | None:
        """The mode guidance of a method, if it has one."""
        found = self.methods[method]
        return found.mode if isinstance(found, LGD | IGD | MGD3) else None

    def influence(self, method: str) -> Influence | None:
        """The influence guidance of a method, if it has one."""
        found = self.methods[method]
        return found.influence if isinstance(found, LGD | IGD | MGD3) else None

    def nested(self, method: str) -> bool:
        """Whether the sets of a method begin with the smaller ones: not where every size is made by itself."""
        found = self.methods[method]
        if found.kind in MATCHED:
            return False
        return not (isinstance(found, MGD3) and found.mode.count is None)

    def modes(self, method: str, ipc: int) -> int:
        """How many modes per class the images of a size are drawn to."""
        mode = self.mode(method)
        assert mode is not None
        return mode.count or (max(self.ipc) if self.nested(method) else ipc)

    def seed(self, run: str) -> int:
        """The seed of a run by its place in the results: `seed-3/`, or nothing for the first one."""
        return int(run.removeprefix("seed-").rstrip("/")) if run else self.seeds[0]

    def run(self, seed: int) -> str:
        """The place of a seed's run in the results."""
        return "" if seed == self.seeds[0] else f"seed-{seed}/"

    def base_of(self, generator: str) -> AnyGenerator:
        """The generator that a fine-tuned one starts from in the end; any other one is its own."""
        found = self.generators[generator]
        return self.base_of(found.base) if isinstance(found, FinetunedGenerator) else found

    def stream(self, method: str) -> str:
        """The name of the stream that a generating method draws from."""
        found = self.methods[method]
        drawing = Plain | LGD | IGD | MGD3 | LD3M | Latent | Pixels | IDC
        return (found.stream if isinstance(found, drawing) else None) or method


class ExperimentError(Exception):
    """The experiment file is wrong; the message has one line per fault."""


def load(config: Mapping[str, Any]) -> Experiment:
    """Read an experiment file that YAML has parsed.

    Raises:
        ExperimentError: one line per fault, each with the path of the key and what is allowed.
    """
    try:
        experiment = Experiment.model_validate(_with_yardsticks(config))
    except ValidationError as error:
        raise ExperimentError("\n".join(_describe(error.errors(), config))) from None
    if faults := list(_contradictions(experiment)) or list(_contradictions_of_sizes(experiment)):
        raise ExperimentError("\n".join(faults))
    return experiment


def _with_yardsticks(config: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment with the rows that every table has: random real images of equal number, and all of them."""
    methods, evaluation = config.get("methods"), config.get("evaluation")
    if not isinstance(methods, Mapping) or not methods or not isinstance(evaluation, Mapping):
        return dict(config)
    kinds = [method.get("kind") for method in methods.values() if isinstance(method, Mapping)]
    wanted = ["random", *(["full"] if evaluation.get("full_data", True) is True else [])]
    added = {kind if kind not in methods else f"{kind}-real": {"kind": kind} for kind in wanted if kind not in kinds}
    return {**config, "methods": {**methods, **added}}


def schema() -> dict[str, Any]:
    """The JSON schema of an experiment file, for editors; `python -m distillery.experiment` prints it.

    Regenerate: `python -m distillery.experiment > workflow/schemas/experiment.schema.json`.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Experiment.model_json_schema()}


def guided_range(given: list[int] | None, steps: int, first: int = 10) -> list[int]:
    """First and last guided index: as given, or `first` to 45 of 50 scaled to the number of steps."""
    return given or [round(steps * first / 50), min(round(steps * 45 / 50), steps - 1)]


def resolved_guidance(experiment: Experiment, method: str) -> tuple[Learnability, Deviation]:
    """The guidances of an LGD method with their ranges as indices."""
    lgd = experiment.lgd(method)
    steps = experiment.generators[lgd.generator].sampling.steps
    learnability = lgd.learnability.model_copy(update={"range": guided_range(lgd.learnability.range, steps)})
    deviation = lgd.deviation.model_copy(update={"range": lgd.deviation.range or learnability.range})
    return learnability, deviation


def resolved_steering(experiment: Experiment, method: str) -> tuple[Influence | None, Mode | None, Deviation | None]:
    """Influence, mode and deviation of a method as far as it has them, with their ranges as indices."""
    found = experiment.methods[method]
    assert isinstance(found, LGD | IGD | MGD3)
    steps = experiment.generators[found.generator].sampling.steps
    influence, mode, deviation = found.influence, found.mode, found.deviation
    beside = None
    if mode is not None:
        stop = round(steps * 25 / 50) if mode.stop is None else mode.stop
        mode = mode.model_copy(update={"stop": stop})
        beside = [min(stop + 1, steps - 1), steps - 1]
    if influence is not None:
        influence = influence.model_copy(update={"range": guided_range(influence.range, steps, first=30)})
        beside = influence.range
    if isinstance(found, LGD):
        deviation = resolved_guidance(experiment, method)[1]
    elif deviation is not None:
        deviation = deviation.model_copy(update={"range": deviation.range or beside})
    return influence, mode, deviation


def _describe(faults: Sequence[Any], config: Mapping[str, Any]) -> list[str]:
    """Validation faults as `key.path: what is wrong; what is allowed`, one line per key."""
    lines: dict[str, list[Any]] = {}
    for fault in faults:  # a value that fits no member of a union has one fault per member
        lines.setdefault(_key(fault, config), []).append(fault)
    return [f"{key}: {_wrong(found)}" for key, found in lines.items()]


def _key(fault: Any, config: Mapping[str, Any]) -> str:
    """The path of a fault in the file."""
    path: list[str] = []
    node: Any = config
    for index, part in enumerate(fault["loc"]):
        last = index == len(fault["loc"]) - 1
        inside = part in node if isinstance(node, Mapping) else isinstance(node, list) and isinstance(part, int)
        # Members of a union, and the mark of a mapping's keys, stand in the location, but in no file.
        if inside or (last and fault["type"] in ("missing", "extra_forbidden")):
            path.append(f"[{part}]" if isinstance(node, list) else f".{part}")
            node = node[part] if inside else None
    kind = ".kind" if fault["type"].startswith("union_tag") else ""
    return ("".join(path) + kind).lstrip(".")


def _wrong(faults: Sequence[Any]) -> str:
    """What is wrong with the value of one key, and what is allowed."""
    fault, kind = faults[0], faults[0]["type"]
    if kind == "extra_forbidden":
        return f"no such key{_instead(fault['loc'][-1], _keys_beside(fault['loc']))}"
    if kind.startswith("union_tag"):
        allowed = _kinds_at(fault["loc"])
        if kind == "union_tag_not_found":
            return f"missing; allowed: {', '.join(allowed)}"
        return f"no kind {fault['ctx']['tag']!r}{_instead(fault['ctx']['tag'], allowed)}"
    if kind == "string_pattern_mismatch":
        return f"{fault['input']!r} is no name; allowed: letters, digits and _ . + -, a letter or a digit first"
    start = "Input should be "
    messages = [str(fault["msg"]).removeprefix("Value error, ") for fault in faults]
    message = " or ".join([messages[0], *(other.removeprefix(start) for other in messages[1:])])
    plain = kind not in ("missing", "value_error") and not isinstance(fault["input"], Mapping)
    given = f" (given: {fault['input']!r})" if plain else ""
    return f"{message[0].lower()}{message[1:]}{given if len(given) < 120 else ''}"


def _instead(given: object, allowed: Sequence[str]) -> str:
    """What comes close to a word that is not allowed, and all that is."""
    close = difflib.get_close_matches(str(given), allowed, n=1)
    return f"{f'; did you mean {close[0]!r}?' if close else ''}; allowed: {', '.join(allowed)}"


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the block allows in which a fault was found."""
    kind: Any = Experiment
    for part in location[:-1]:
        kind = _below(kind, part)
    if not (isinstance(kind, type) and issubclass(kind, Block)):
        return []
    return sorted(field.alias or name for name, field in kind.model_fields.items())


def _kinds_at(location: tuple[str | int, ...]) -> list[str]:
    """The kinds of block that may stand where a fault was found."""
    kind: Any = Experiment
    for part in location:
        kind = _below(kind, part)
    blocks = [member for member in typing.get_args(kind) if isinstance(member, type) and issubclass(member, Block)]
    return [tag for block in blocks for tag in typing.get_args(typing.get_type_hints(block)["kind"])]


def _below(kind: Any, part: str | int) -> Any:
    """The type that stands at one part of a fault's location."""
    if isinstance(kind, type) and issubclass(kind, Block):
        return typing.get_type_hints(kind)[str(part)] if part in kind.model_fields else None
    members = [kind, *typing.get_args(kind)]
    for member in members:
        if typing.get_origin(member) is dict:
            return typing.get_args(member)[1]
        if typing.get_origin(member) is list:
            return typing.get_args(member)[0]
    blocks = [member for member in members if isinstance(member, type) and issubclass(member, Block)]
    for block in blocks:
        if part in typing.get_args(typing.get_type_hints(block).get("kind")):
            return block
    return _below(blocks[0], part) if blocks else None


def _contradictions(experiment: Experiment) -> Iterator[str]:
    """What each block allows, and what together makes no sense."""
    known: list[str] = []
    try:
        known = class_names(experiment.dataset.source)
    except ValueError as error:
        yield str(error)
    yield from _contradictions_of_data(experiment.dataset, known)
    yield from _twice("seeds", experiment.seeds)
    yield from _twice("ipc", experiment.ipc)
    yield from _twice("evaluation.networks", experiment.evaluation.networks)
    yield from _contradictions_of_generators(experiment)
    if known:
        yield from _contradictions_of_sides(experiment)
        yield from _contradictions_of_protocols(experiment)
        yield from _contradictions_of_surrogates(experiment, experiment.dataset.classes or known)
        yield from _contradictions_of_experts(experiment, experiment.dataset.classes or known)
    yield from _contradictions_of_methods(experiment, len(experiment.dataset.classes or known))
    yield from _contradictions_of_analysis(experiment)


def _contradictions_of_methods(experiment: Experiment, classes: int) -> Iterator[str]:
    """Whether every method has its networks and its generator, and what its kind asks for."""
    for name, method in experiment.methods.items():
        key = f"methods.{name}"
        if isinstance(method, Herding | KCenter) and method.features not in experiment.references:
            there = ", ".join(experiment.references) or "none"
            yield f"{key}.features: no reference {method.features!r}; references: {there}"
        if isinstance(method, RealByLearnability):
            yield from _contradictions_of_increments(experiment, key, method)
        if isinstance(method, LD3M | Latent | Pixels | IDC):
            yield from _contradictions_of_matching(experiment, key, method, classes)
        if not isinstance(method, Plain | LGD | IGD | MGD3 | LD3M):
            continue
        if method.generator not in experiment.generators:
            there = ", ".join(experiment.generators) or "none"
            yield f"{key}.generator: no generator {method.generator!r}; generators: {there}"
        elif isinstance(method, LD3M):
            generator = experiment.generators[method.generator]
            yield from checks.faults_of_chain(key, method, generator, experiment.autoencoder)
        else:
            yield from _contradictions_of_unet(experiment, key, method.generator)
            if isinstance(method, LGD):
                yield from _contradictions_of_lgd(experiment, name, method)
            if not isinstance(method, Plain):
                yield from _contradictions_of_steering(experiment, key, method)
        if not isinstance(method, LD3M) and 1 < classes < method.shards:
            yield f"{key}.shards: {method.shards} jobs for {classes} classes; allowed: 1 to {classes}"


def _contradictions_of_matching(experiment: Experiment, key: str, method: Matched, classes: int) -> Iterator[str]:
    """Whether a method that optimises images has its autoencoder and its experts, and can be split as it says."""
    yield from checks.faults_of_shards(key, method, classes)
    name = checks.experts_of(method)
    network = experiment.experts_network(name) if name in experiment.experts else ""
    yield from checks.faults_of_experts(key, method, experiment.experts, network)


def _contradictions_of_experts(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether experts that come from elsewhere are of these images."""
    channels = 1 if experiment.dataset.channels == "grey" else 3
    for name, block in experiment.experts.items():
        yield from checks.faults_of_files(
            f"experts.{name}",
            block,
            network=experiment.experts_network(name),
            classes=classes,
            size=experiment.dataset.resolution,
            channels=channels,
            epochs=experiment.experts_epochs(name),
        )


def _contradictions_of_unet(experiment: Experiment, key: str, name: str) -> Iterator[str]:
    """Whether a generator is one that samplers and trainings take."""
    generator = experiment.generators[name]
    if isinstance(generator, PretrainedGenerator) and generator.network == "unet":
        yield f"{key}: generators.{name} is a UNet, which methods of kind ld3m alone take; give a DiT"


def _twice(key: str, values: Sequence[object]) -> Iterator[str]:
    """What a list of different things holds more than once."""
    if twice := [repr(value) for value, times in Counter(values).items() if times > 1]:
        yield f"{key}: {', '.join(twice)} stands there more than once"


def _contradictions_of_data(dataset: Dataset, known: list[str]) -> Iterator[str]:
    """Whether there are test images once, and the classes that are wanted; none are known where a fault says why."""
    if dataset.source.kind == "digits" or not dataset.source.test:
        if dataset.holdout is None:
            yield "dataset.holdout: needed, because the source has no test images; for instance {fraction: 0.25}"
        elif not 0 < dataset.holdout.fraction < 1:
            fraction = dataset.holdout.fraction
            yield f"dataset.holdout.fraction: {fraction} leaves no image on one side; allowed: between 0 and 1"
    elif dataset.holdout is not None:
        yield "dataset.holdout: the source has test images of its own; leave out one of the two"
    for wanted in dataset.classes or []:
        if known and same_class(wanted, known) is None:
            close = difflib.get_close_matches(wanted, known, n=3)
            shown = f"close: {', '.join(close)}" if close else f"there are: {', '.join(known[:20])}"
            yield f"dataset.classes: no class {wanted!r} in the data; {shown}"
    yield from _twice("dataset.classes", dataset.classes or [])
    if dataset.classes is None and len(known) == 1:
        yield f"dataset.source.train: holds one class, {known[0]!r}; at least two are needed"


def _contradictions_of_sides(experiment: Experiment) -> Iterator[str]:
    """Whether images halve as often as autoencoder and networks want, and latents fall into patches."""
    side = experiment.dataset.resolution
    factor, channels, halving = _latents_of(experiment)
    latent = bool(experiment.generators) or any(isinstance(one, Latent) for one in experiment.methods.values())
    if latent and factor is not None and side % factor:
        yield f"{halving}, but dataset.resolution is {side}; allowed: a multiple of {factor}"
        return
    for name, generator in experiment.generators.items():
        key = f"generators.{name}"
        if isinstance(generator, Generator):
            width = generator.num_attention_heads * generator.attention_head_dim
            if factor is not None and (side // factor) % generator.patch_size:
                latent = side // factor
                yield f"{key}.patch_size: {generator.patch_size} does not divide the {latent} x {latent} latents"
            if width % 4:
                yield (
                    f"{key}.attention_head_dim: {generator.num_attention_heads} heads of "
                    f"{generator.attention_head_dim} make {width} channels; allowed: a multiple of 4, for sines and "
                    "cosines of rows and columns"
                )
        if isinstance(generator, PretrainedGenerator) and factor is not None:
            yield from _contradictions_of_shape(key, generator, channels, side, factor, _draws_natively(experiment, name))
        guided = generator.sampling.cfg_channels
        if channels is not None and guided != "all" and guided > channels:
            yield f"{key}.sampling.cfg_channels: {guided} of {channels} channels; allowed: 1 to {channels}, or all"
    for key, network, protocol in _networks(experiment):
        size = protocol.side(experiment.classes)
        if why := refused_side(network, size or side):
            where = f"the size of protocol {protocol.label}" if size else "dataset.resolution"
            seen = size or side
            yield f"{key}: {why}, but {where} is {seen}"


def _contradictions_of_shape(
    key: str, generator: PretrainedGenerator, channels: int | None, side: int, factor: int, native: bool
) -> Iterator[str]:
    """Whether a pretrained generator, where it is on this machine, makes latents of the autoencoder's shape.

    Args:
        native: it draws at its own side, and images are resized to that of the data.
    """
    try:
        config = stated_config(generator, _part_of(generator))
        takes = (int(config["in_channels"]), int(config["sample_size"]))
    except (WeightsError, KeyError, TypeError, ValueError):
        return
    if takes[0] == channels and native:
        return
    if takes != (channels, side // factor):
        yield (
            f"{key}.weights: {generator.weights} takes latents of {takes[0]} x {takes[1]} x {takes[1]}, and the "
            f"autoencoder gives {channels} x {side // factor} x {side // factor} at dataset.resolution {side}; "
            f"allowed: dataset.resolution {takes[1] * factor} and an autoencoder of {takes[0]} latent channels"
        )


def _draws_natively(experiment: Experiment, generator: str) -> bool:
    """Whether all methods that name a generator let it draw at its own side; LD3M does so unless told otherwise."""
    using = [one for one in experiment.methods.values() if getattr(one, "generator", None) == generator]
    tuned = [one for one in experiment.generators.values() if getattr(one, "base", None) == generator]
    native = [isinstance(one, LD3M) and one.chain.render_size == "native" for one in using]
    return bool(native) and all(native) and not tuned


def _latents_of(experiment: Experiment) -> tuple[int | None, int | None, str]:
    """By how much latents are smaller than images, how many channels they have, and why; None: nobody knows yet."""
    block = experiment.autoencoder
    if isinstance(block, Autoencoder):
        blocks = len(block.block_out_channels)
        why = f"autoencoder.block_out_channels: {blocks} blocks halve the side {blocks - 1} times"
        return 2 ** (blocks - 1), block.latent_channels, why
    try:
        config = stated_config(block, "")
        halvings = len(config.get("encoder_block_out_channels") or config["block_out_channels"]) - 1
        channels = int(config.get("vq_embed_dim") or config["latent_channels"])
    except (WeightsError, KeyError, TypeError, ValueError):
        return None, None, ""
    return 2**halvings, channels, f"autoencoder.weights: {block.weights} halves the side {halvings} times"


def _contradictions_of_generators(experiment: Experiment) -> Iterator[str]:
    """Whether weights are there and whole, fine-tuning has a base, and training what it asks for."""
    blocks: dict[str, Pretrained | None] = {"guidance_autoencoder": experiment.guidance_autoencoder}
    if isinstance(experiment.autoencoder, PretrainedAutoencoder):
        blocks["autoencoder"] = experiment.autoencoder
    blocks |= {
        f"generators.{name}": g for name, g in experiment.generators.items() if isinstance(g, PretrainedGenerator)
    }
    for key, block in blocks.items():
        if block is not None:
            parts = (_part_of(block),) if isinstance(block, PretrainedGenerator) else ("",)
            try:
                check_stated(block, parts)
            except WeightsError as error:
                yield f"{key}.weights: {error}"
    term = experiment.autoencoder.perceptual if isinstance(experiment.autoencoder, Autoencoder) else None
    if term is not None and term.reference not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"autoencoder.perceptual.reference: no reference {term.reference!r}; references: {there}"
    for name, generator in experiment.generators.items():
        if isinstance(generator, PretrainedGenerator):
            continue
        key = f"generators.{name}"
        if generator.flip and not experiment.latents.mirrored:
            yield f"{key}.flip: there are no mirrors; set latents.mirrored: true"
        pieces = generator.processes * generator.accumulate
        if generator.batch_size % pieces:
            yield (
                f"{key}.batch_size: {generator.batch_size} images for {generator.processes} processes of "
                f"{generator.accumulate} passes each; allowed: a multiple of {pieces}"
            )
        if isinstance(generator, FinetunedGenerator):
            yield from _contradictions_of_finetuning(experiment, name, generator)


def _part_of(generator: PretrainedGenerator) -> str:
    """The folder that holds a generator's network."""
    return "unet" if generator.network == "unet" else "transformer"


def _contradictions_of_finetuning(experiment: Experiment, name: str, generator: FinetunedGenerator) -> Iterator[str]:
    seen = [name]
    at: AnyGenerator = generator
    while isinstance(at, FinetunedGenerator):
        if at.base not in experiment.generators:
            others = ", ".join(other for other in experiment.generators if other != name) or "none"
            yield f"generators.{seen[-1]}.base: no generator {at.base!r}; generators: {others}"
            return
        if at.base in seen:
            yield f"generators.{name}.base: {' -> '.join([*seen, at.base])} ends nowhere"
            return
        yield from _contradictions_of_unet(experiment, f"generators.{seen[-1]}.base", at.base)
        seen.append(at.base)
        at = experiment.generators[at.base]


_SEEN_AS_STORED = Protocol(preset="ld3m")
"""Networks that compare see images at the side of the data."""


def _networks(experiment: Experiment) -> Iterator[tuple[str, str, Protocol]]:
    """Every network that the file names, with its key and the protocol that trains it."""
    first = experiment.evaluation.protocols[0]
    for protocol in experiment.evaluation.protocols:
        for index, network in enumerate(experiment.evaluation.networks):
            yield f"evaluation.networks[{index}]", network, protocol
    for name, reference in experiment.references.items():
        yield f"references.{name}.network", reference.network, reference.training
    for name, surrogate in experiment.surrogates.items():
        yield f"surrogates.{name}.network", surrogate.network, surrogate.training
    for name, method in experiment.methods.items():
        if isinstance(method, LGD | RealByLearnability) and method.student.network:
            yield f"methods.{name}.student.network", method.student.network, method.student.protocol or first
        if isinstance(method, LD3M | Latent | Pixels | IDC):
            yield f"methods.{name}.network", experiment.comparing(name), _SEEN_AS_STORED
    for name in experiment.experts:
        yield f"experts.{name}.network", experiment.experts_network(name), _SEEN_AS_STORED
    if experiment.matching.network:
        yield "matching.network", experiment.matching.network, experiment.matching.protocol or first
    if experiment.analysis.redundancy.network:
        yield "analysis.redundancy.network", experiment.analysis.redundancy.network, first


def _contradictions_of_protocols(experiment: Experiment) -> Iterator[str]:
    """Whether every protocol can be carried out: its labels have a teacher, its networks a learning rate."""
    evaluation = experiment.evaluation
    yield from _twice("evaluation.protocol", [protocol.label for protocol in evaluation.protocols])
    if evaluation.baseline is not None and evaluation.baseline not in experiment.methods:
        there = ", ".join(experiment.methods)
        yield f"evaluation.baseline: no method {evaluation.baseline!r}; methods: {there}"
    for index, protocol in enumerate(evaluation.protocols):
        key = f"evaluation.protocol[{index}]" if isinstance(evaluation.protocol, list) else "evaluation.protocol"
        for network in evaluation.networks:
            try:
                recipe = experiment.recipe(protocol, network, experiment.ipc[0])
            except ValueError as error:
                yield f"{key}: {error}"
                continue
            yield from _contradictions_of_labels(experiment, key, recipe)
            break
    for name, reference in experiment.references.items():
        if experiment.recipe(reference.training, reference.network, "full").labels == "soft":
            yield f"references.{name}.training.labels: soft ones need a teacher, and this has none; allowed: hard"
    for name, surrogate in experiment.surrogates.items():
        if experiment.recipe(surrogate.training, surrogate.network, "full").labels == "soft":
            yield f"surrogates.{name}.training.labels: soft ones need a teacher, and this has none; allowed: hard"
    for name, method in experiment.methods.items():
        if isinstance(method, LGD | RealByLearnability):
            protocol = method.student.protocol or evaluation.protocols[0]
            network = method.student.network or evaluation.networks[0]
            if experiment.recipe(protocol, network, method.increment_size).labels == "soft":
                yield (
                    f"methods.{name}.student.protocol: the student learns from hard labels, and "
                    f"{protocol.label} has soft ones; give another protocol here"
                )


def _contradictions_of_labels(experiment: Experiment, key: str, recipe: Recipe) -> Iterator[str]:
    """Whether soft labels have a teacher, and hard ones none."""
    there = ", ".join(experiment.references) or "none yet"
    if recipe.labels == "soft" and recipe.teacher is None:
        yield f"{key}.teacher: soft labels need a teacher; allowed: one of references ({there})"
    elif recipe.labels == "hard" and recipe.teacher is not None:
        yield f"{key}.teacher: labels are hard, so there is nothing to teach; leave it out, or set labels: soft"
    elif recipe.teacher is not None and recipe.teacher not in experiment.references:
        yield f"{key}.teacher: no reference {recipe.teacher!r}; references: {there}"


def _contradictions_of_sizes(experiment: Experiment) -> Iterator[str]:
    """Whether every class has as many real images as are to be chosen from it."""
    chosen = sorted(name for name, method in experiment.methods.items() if method.kind in CHOOSING)
    chosen += sorted(name for name, method in experiment.methods.items() if getattr(method, "init", None) == "real")
    moded = [name for name in experiment.methods if experiment.mode(name) is not None]
    if not chosen and not moded:
        return
    sizes = _training_sizes(experiment)
    holdout = experiment.dataset.holdout
    for name in moded:
        modes = max(experiment.modes(name, ipc) for ipc in experiment.ipc)
        least = min(sizes, key=lambda one: sizes[one])
        if modes > sizes[least]:
            yield (
                f"methods.{name}.mode.count: {modes} modes, but class {least!r} has {sizes[least]} training images, "
                f"and a mode needs one of its own; allowed: 1 to {sizes[least]}"
            )
    for name, size in sizes.items() if chosen else ():
        if too_many := [ipc for ipc in experiment.ipc if ipc > size]:
            held = " after those that are held out" if holdout is not None else ""
            yield (
                f"ipc: {max(too_many)} images per class, but class {name!r} has {size} training images{held}, and "
                f"methods.{chosen[0]} chooses among them; allowed: 1 to {size}"
            )
            return


def _training_sizes(experiment: Experiment) -> dict[str, int]:
    """Images of each class that are left for training."""
    sizes, holdout = class_sizes(experiment.dataset.source), experiment.dataset.holdout
    found, there = {}, list(sizes)
    for name in [same_class(name, there) or name for name in experiment.dataset.classes or there]:
        found[name] = sizes.get(name, 0)
        if holdout is not None:
            found[name] -= min(max(int(found[name] * holdout.fraction + 0.5), 1), max(found[name] - 1, 0))
    return found


def _contradictions_of_steering(experiment: Experiment, key: str, method: LGD | IGD | MGD3) -> Iterator[str]:
    """Whether what steers has its networks, its indices and its latents."""
    steps = experiment.generators[method.generator].sampling.steps
    where = f"the {steps} sampling steps of generators.{method.generator}.sampling.steps"
    blocks: dict[str, Influence | Deviation | None] = {"influence": method.influence, "deviation": method.deviation}
    for name, block in blocks.items():
        if block is not None and block.range and block.range[1] >= steps:
            yield f"{key}.{name}.range: {block.range[1]} lies beyond {where}; allowed: 0 to {steps - 1}"
    if method.mode is not None and method.mode.stop is not None and method.mode.stop >= steps - 1:
        yield (
            f"{key}.mode.stop: {method.mode.stop} leaves no index above it in {where}; allowed: 0 to {steps - 2}, or "
            "strength: 0"
        )
    blocks_of_latents = 2 ** (len(experiment.autoencoder.block_out_channels) - 1)
    side = experiment.dataset.resolution // blocks_of_latents
    if method.mode is not None and method.mode.pool is not None and method.mode.pool > side:
        yield f"{key}.mode.pool: {method.mode.pool} is more than the side of the latents; allowed: 1 to {side}"
    if method.influence is not None and method.influence.surrogate not in experiment.surrogates:
        there = ", ".join(experiment.surrogates) or "none"
        yield f"{key}.influence.surrogate: no surrogate {method.influence.surrogate!r}; surrogates: {there}"


def _contradictions_of_surrogates(experiment: Experiment, classes: Sequence[str]) -> Iterator[str]:
    """Whether checkpoints that a surrogate is opened from are of the classes of the data."""
    from distillery.artifacts import described_tensors

    for name, surrogate in experiment.surrogates.items():
        if surrogate.checkpoints is None:
            continue
        key = f"surrogates.{name}.checkpoints"
        try:
            known = described_tensors(Path(surrogate.checkpoints)).get("classes")
        except (OSError, ValueError) as error:
            yield f"{key}: {surrogate.checkpoints!r} cannot be read ({error}); give a file of train_surrogate"
            continue
        if known is None:
            yield f"{key}: {surrogate.checkpoints!r} names no classes; give a file of train_surrogate"
        elif sorted(known) != sorted(classes):
            yield (
                f"{key}: trained on the classes {', '.join(known[:20])}, but the data have "
                f"{', '.join(classes[:20])}; give one of these classes, or none to train it here"
            )


def _contradictions_of_increments(experiment: Experiment, key: str, method: LGD | RealByLearnability) -> Iterator[str]:
    """Whether a method that works in increments has its reference, and sizes that increments add up to."""
    if method.reference not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"{key}.reference: no reference {method.reference!r}; references: {there}"
    for ipc in experiment.ipc:
        if ipc % method.increment_size:
            yield f"ipc: {ipc} is no multiple of the {method.increment_size} images of {key}.increment_size"


def _contradictions_of_lgd(experiment: Experiment, name: str, method: LGD) -> Iterator[str]:
    key, steps = f"methods.{name}", experiment.generators[method.generator].sampling.steps
    if (given := method.learnability.range) and given[1] >= steps:
        yield (
            f"{key}.learnability.range: {given[1]} lies beyond the {steps} sampling steps of "
            f"generators.{method.generator}.sampling.steps; allowed: 0 to {steps - 1}"
        )
    yield from _contradictions_of_increments(experiment, key, method)
    judge = method.calibration.judge
    if judge is not None and judge not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"{key}.calibration.judge: no reference {judge!r}; references: {there}"
    if method.seed != "plain":
        seed = experiment.methods.get(method.seed)
        if seed is None:
            others = ", ".join(other for other in experiment.methods if other != name)
            yield f"{key}.seed: no method {method.seed!r}; allowed: plain, {others}"
        elif isinstance(seed, LGD):
            yield f"{key}.seed: {method.seed!r} is an LGD method itself; allowed: plain, or a method of another kind"
    weight, strength = method.learnability.reference_weight, method.learnability.strength
    if weight == "auto" and strength == 0:
        yield f"{key}.learnability.reference_weight: nothing to calibrate at strength 0; give a number"


def _contradictions_of_analysis(experiment: Experiment) -> Iterator[str]:
    redundancy = experiment.analysis.redundancy
    for method in dict.fromkeys([*redundancy.methods, *filter(None, [redundancy.baseline])]):
        if method not in experiment.methods:
            yield f"analysis.redundancy: no method {method!r}; methods: {', '.join(experiment.methods)}"
    coverage = experiment.analysis.coverage
    if coverage is not None and coverage.features not in experiment.references:
        there = ", ".join(experiment.references) or "none"
        yield f"analysis.coverage.features: no reference {coverage.features!r}; references: {there}"
    gradients = experiment.analysis.gradients
    if gradients is not None and not isinstance(experiment.methods.get(gradients.method), LD3M):
        there = ", ".join(name for name, one in experiment.methods.items() if isinstance(one, LD3M)) or "none"
        yield f"analysis.gradients.method: no method {gradients.method!r} of kind ld3m; methods: {there}"
    for method in experiment.analysis.published.methods if experiment.analysis.published else ():
        if method not in experiment.methods:
            yield f"analysis.published.methods: no method {method!r}; methods: {', '.join(experiment.methods)}"
    if experiment.analysis.front and not (redundancy.methods and redundancy.baseline):
        yield "analysis.front: needs analysis.redundancy.methods and analysis.redundancy.baseline"
    if redundancy.methods and max(experiment.ipc) % redundancy.increment_size:
        yield (
            f"analysis.redundancy.increment_size: {redundancy.increment_size} does not divide the largest of ipc, "
            f"{max(experiment.ipc)}"
        )
    elif redundancy.methods and max(experiment.ipc) < 2 * redundancy.increment_size:
        yield f"analysis.redundancy.increment_size: ipc {max(experiment.ipc)} gives fewer than two increments"


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, sort_keys=True))
