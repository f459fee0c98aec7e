"""The experiment file: its blocks, its defaults, and what cannot go together.

Everything is refused before a job is planned, with the path of the key and what is allowed there.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from distillery.data.settings import Dataset
from distillery.data.sources import class_names
from distillery.diffusion.settings import Autoencoder, Generator
from distillery.guidance.settings import Calibration, Deviation, Learnability
from distillery.selection.settings import Random
from distillery.settings import Block, Count, Fraction, Name
from distillery.students.settings import Evaluation, Network, Reference, Student


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
    calibration: Calibration = Calibration()
    stream: str | None = Field(
        None, description="Methods of one stream share all their noise; none: the method's name."
    )
    shards: Count = Field(1, description="Jobs that the classes are spread over.")

    @property
    def calibrates(self) -> bool:
        """Whether a pilot chooses a strength or a weight."""
        return "auto" in (self.learnability.strength, self.learnability.reference_weight)


Method = Annotated[Plain | LGD | Random, Field(discriminator="kind")]


class Redundancy(Block):
    """How much of an increment a network knows that was trained on another one (fig. 2 of arXiv 2604.00519)."""

    methods: list[Name] = Field([])
    baseline: Name | None = Field(None, description="The method that reductions are measured against.")
    increment_size: Count = 10
    network: Network | None = Field(None, description="None: the first network of the evaluation.")
    students: Count = 3


class Analysis(Block):
    """What is measured beside accuracy."""

    redundancy: Redundancy = Redundancy()
    front: bool = Field(False, description="Accuracy against redundancy over all methods, as a table and a figure.")


class Experiment(Block):
    """An experiment file."""

    name: Name
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        [0], min_length=1, description="The whole experiment but the data is repeated for each; tables join them."
    )
    dataset: Dataset
    autoencoder: Autoencoder = Autoencoder()
    generators: dict[Name, Generator]
    references: dict[Name, Reference] = Field({})
    methods: dict[Name, Method] = Field(min_length=1)
    ipc: list[Count] = Field(min_length=1, description="Images per class.")
    evaluation: Evaluation
    analysis: Analysis = Analysis()

    def increments(self, method: str) -> int:
        """How many increments the largest set of an LGD method has."""
        found = self.methods[method]
        assert isinstance(found, LGD)
        return max(self.ipc) // found.increment_size

    def largest_set(self, method: str) -> int:
        """Images per class of a method's largest set, of which the smaller ones are the beginnings."""
        return max(self.ipc)

    def lgd(self, method: str) -> LGD:
        """An LGD method by its name."""
        found = self.methods[method]
        assert isinstance(found, LGD)
        return found

    def seed(self, run: str) -> int:
        """The seed of a run by its place in the results: `seed-3/`, or nothing for the first one."""
        return int(run.removeprefix("seed-").rstrip("/")) if run else self.seeds[0]

    def run(self, seed: int) -> str:
        """The place of a seed's run in the results."""
        return "" if seed == self.seeds[0] else f"seed-{seed}/"

    def stream(self, method: str) -> str:
        """The name of the stream that a generating method draws from."""
        found = self.methods[method]
        return (None if isinstance(found, Random) else found.stream) or method


class ExperimentError(Exception):
    """The experiment file is wrong; the message has one line per fault."""


def load(config: Mapping[str, Any]) -> Experiment:
    """Read an experiment file that YAML has parsed.

    Raises:
        ExperimentError: one line per fault, each with the path of the key and what is allowed.
    """
    try:
        experiment = Experiment.model_validate(dict(config))
    except ValidationError as error:
        raise ExperimentError("\n".join(_describe(fault, config) for fault in error.errors())) from None
    if faults := list(_contradictions(experiment)):
        raise ExperimentError("\n".join(faults))
    return experiment


def schema() -> dict[str, Any]:
    """The JSON schema of an experiment file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Experiment.model_json_schema()}


def guided_range(given: list[int] | None, steps: int) -> list[int]:
    """First and last guided index: as given, or 10 to 45 of 50 scaled to the number of steps."""
    return given or [round(steps * 10 / 50), min(round(steps * 45 / 50), steps - 1)]


def resolved_guidance(experiment: Experiment, method: str) -> tuple[Learnability, Deviation]:
    """The guidances of an LGD method with their ranges as indices."""
    lgd = experiment.lgd(method)
    steps = experiment.generators[lgd.generator].sampling.steps
    learnability = lgd.learnability.model_copy(update={"range": guided_range(lgd.learnability.range, steps)})
    deviation = lgd.deviation.model_copy(update={"range": lgd.deviation.range or learnability.range})
    return learnability, deviation


def _describe(fault: Any, config: Mapping[str, Any]) -> str:
    """One validation fault as `key.path: what is wrong; what is allowed`."""
    path: list[str] = []
    node: Any = config
    for index, part in enumerate(fault["loc"]):
        inside = (isinstance(node, Mapping) and part in node) or (isinstance(node, list) and isinstance(part, int))
        if inside or index == len(fault["loc"]) - 1:  # the tag of a union stands in the path, but in no file
            path.append(f"[{part}]" if isinstance(part, int) else f".{part}")
            node = node[part] if inside else None
    key = "".join(path).lstrip(".")
    if fault["type"] == "extra_forbidden":
        allowed = _keys_beside(fault["loc"])
        close = difflib.get_close_matches(str(fault["loc"][-1]), allowed, n=1)
        return f"{key}: no such key{f'; did you mean {close[0]!r}?' if close else ''}; allowed: {', '.join(allowed)}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    given = f" (given: {fault['input']!r})" if fault["type"] not in ("missing", "value_error") else ""
    return f"{key}: {message[0].lower()}{message[1:]}{given if len(given) < 120 else ''}"


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    """The keys that the block allows in which a fault was found."""
    kind: Any = Experiment
    for part in location[:-1]:
        kind = _below(kind, part)
    return sorted(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Block) else []


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
    yield from _contradictions_of_data(experiment.dataset)
    if len(set(experiment.seeds)) < len(experiment.seeds):
        yield f"seeds: {experiment.seeds} holds a seed twice"
    for name, method in experiment.methods.items():
        key = f"methods.{name}"
        if isinstance(method, Random):
            continue
        if method.generator not in experiment.generators:
            yield f"{key}.generator: no generator {method.generator!r}; generators: {', '.join(experiment.generators)}"
        elif isinstance(method, LGD):
            yield from _contradictions_of_lgd(experiment, name, method)
    yield from _contradictions_of_analysis(experiment)


def _contradictions_of_data(dataset: Dataset) -> Iterator[str]:
    if dataset.source.kind == "digits" or not dataset.source.test:
        if dataset.holdout is None:
            yield "dataset.holdout: needed, because the source has no test images; for instance {fraction: 0.25}"
        elif not 0 < dataset.holdout.fraction < 1:
            fraction = dataset.holdout.fraction
            yield f"dataset.holdout.fraction: {fraction} leaves no image on one side; allowed: between 0 and 1"
    elif dataset.holdout is not None:
        yield "dataset.holdout: the source has test images of its own; leave out one of the two"
    try:
        known = class_names(dataset.source)
    except ValueError as error:
        yield str(error)
        return
    for wanted in dataset.classes or []:
        if wanted not in known:
            close = difflib.get_close_matches(wanted, known, n=3)
            shown = f"close: {', '.join(close)}" if close else f"there are: {', '.join(known[:20])}"
            yield f"dataset.classes: no class {wanted!r} in the data; {shown}"
    if len(set(dataset.classes or [])) < len(dataset.classes or []):
        yield "dataset.classes: holds a class twice"


def _contradictions_of_lgd(experiment: Experiment, name: str, method: LGD) -> Iterator[str]:
    key, steps = f"methods.{name}", experiment.generators[method.generator].sampling.steps
    for block in ("learnability", "deviation"):
        given = getattr(method, block).range
        if given and given[1] >= steps:
            yield (
                f"{key}.{block}.range: {given[1]} lies beyond the {steps} sampling steps of "
                f"generators.{method.generator}.sampling.steps; allowed: 0 to {steps - 1}"
            )
    for named, where in ((method.reference, "reference"), (method.calibration.judge, "calibration.judge")):
        if named is not None and named not in experiment.references:
            yield f"{key}.{where}: no reference {named!r}; references: {', '.join(experiment.references) or 'none'}"
    for ipc in experiment.ipc:
        if ipc % method.increment_size:
            yield f"ipc: {ipc} is no multiple of the {method.increment_size} images of {key}.increment_size"
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
    for method in [*redundancy.methods, *([redundancy.baseline] if redundancy.baseline else [])]:
        if method not in experiment.methods:
            yield f"analysis.redundancy: no method {method!r}; methods: {', '.join(experiment.methods)}"
    if experiment.analysis.front and not (redundancy.methods and redundancy.baseline):
        yield "analysis.front: needs analysis.redundancy.methods and analysis.redundancy.baseline"
    if redundancy.methods and max(experiment.ipc) % redundancy.increment_size:
        yield (
            f"analysis.redundancy.increment_size: {redundancy.increment_size} does not divide the largest of ipc, "
            f"{max(experiment.ipc)}"
        )
    elif redundancy.methods and max(experiment.ipc) < 2 * redundancy.increment_size:
        yield f"analysis.redundancy.increment_size: ipc {max(experiment.ipc)} gives fewer than two increments"
