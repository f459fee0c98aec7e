"""The experiment file: its blocks and its defaults.

Everything that is wrong is refused before a job is planned, with the path of the key and what is allowed there:
`mistakes` says it of a word, `contradictions` of what cannot go together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from distillery.data.settings import Dataset, External
from distillery.data.sources import class_names
from distillery.diffusion.settings import (
    AnyAutoencoder,
    AnyGenerator,
    Autoencoder,
    FinetunedGenerator,
    Latents,
    PretrainedAutoencoder,
)
from distillery.errors import ExperimentError
from distillery.guidance.mode import Mode
from distillery.guidance.registry import Guidances
from distillery.guidance.settings import Surrogate
from distillery.matching import checks
from distillery.matching.settings import IDC, LD3M, MATCHED, Experts, Latent, Matched, Matching, Pixels
from distillery.methods.sampled import IGD, LGD, MGD3, Plain, Sampled
from distillery.plan.messages import described
from distillery.selection.settings import Full, Herding, KCenter, Random, RealByLearnability
from distillery.settings import Block, Count, Name
from distillery.students.settings import Evaluation, Network, Protocol, Recipe, Reference

Method = Annotated[
    Plain
    | LGD
    | IGD
    | MGD3
    | LD3M
    | Latent
    | Pixels
    | IDC
    | Random
    | Herding
    | KCenter
    | RealByLearnability
    | Full
    | External,
    Field(discriminator="kind"),
]

REAL = ("random", "herding", "k_center")
"""The kinds of method that choose real images at once."""

CHOOSING = (*REAL, "real_by_learnability")
"""The kinds of method that choose real images."""


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
    generators: dict[Name, AnyGenerator] = Field({})
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

    def sampled(self, method: str) -> Sampled:
        """A method that samples a generator, by its name."""
        sampled = self.methods[method]
        assert isinstance(sampled, Sampled)
        return sampled

    def guidance(self, method: str) -> Guidances:
        """The guidances of a method as the file has them; none where it does not sample."""
        block = self.methods[method]
        return block.guidance if isinstance(block, Sampled) else Guidances()

    def resolved_guidance(self, method: str) -> Guidances:
        """The guidances of a method that samples, with indices in place of defaults."""
        sampled = self.sampled(method)
        return sampled.guidance.resolved(self.generators[sampled.generator].sampling.steps)

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
        return self.guidance(method).get(Mode)

    def nested(self, method: str) -> bool:
        """Whether the sets of a method begin with the smaller ones: not where every size is made by itself."""
        found = self.methods[method]
        if found.kind in (*MATCHED, "external"):
            return False
        mode = self.mode(method)
        return not (isinstance(found, MGD3) and mode is not None and mode.count is None)

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
        drawing = Sampled | LD3M | Latent | Pixels | IDC
        return (found.stream if isinstance(found, drawing) else None) or method


def load(config: Mapping[str, Any]) -> Experiment:
    """Read an experiment file that YAML has parsed.

    Raises:
        ExperimentError: one line per fault, each with the path of the key and what is allowed.
    """
    from distillery.plan.checks import contradictions  # which are about these very blocks

    try:
        experiment = Experiment.model_validate(_with_yardsticks(config))
    except ValidationError as error:
        raise ExperimentError("\n".join(described(error.errors(), config, Experiment))) from None
    if faults := list(contradictions(experiment)):
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
    """The JSON schema of an experiment file, for editors; `python -m distillery.plan.experiment` prints it.

    Regenerate: `python -m distillery.plan.experiment > workflow/schemas/experiment.schema.json`.
    """
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Experiment.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, sort_keys=True))
