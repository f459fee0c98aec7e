"""Methods whose sets grow in increments: learnability-guided diffusion, and its control among real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from pydantic import Field

from distillery.guidance.settings import Calibration, Deviation, Influence, Learnability, Mode
from distillery.methods.base import Context, Method, Needs, Part, Trained, check_named, check_shards
from distillery.methods.sampling import check_generator, check_guidance
from distillery.settings import Count, Fraction, Name, NonNegative
from distillery.students.settings import Student


class Incremental(Method):
    """A method that trains a student on its increments so far, to choose the next one."""

    incremental: ClassVar[bool] = True
    reference: Name = Field(description="The network that says what is valid.")
    increment_size: Count = Field(10, description="Images per class in one increment.")
    student: Student = Student()

    @property
    def needs(self) -> Needs:
        """The reference."""
        return Needs(reference=self.reference)

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        """The increments up to this size."""
        return [Part("increment", {"k": k}) for k in range(1, -(-ipc // self.increment_size) + 1)]

    def increments(self, sizes: Sequence[int]) -> int:
        """How many increments its largest set has."""
        return max(sizes) // self.increment_size

    def check(self, key: str, context: Context) -> Iterator[str]:
        """Whether it has its reference, and sizes that increments add up to."""
        yield from check_named(f"{key}.reference", "reference", self.reference, context.references)
        for ipc in context.ipc:
            if ipc % self.increment_size:
                yield f"ipc: {ipc} is no multiple of the {self.increment_size} images of {key}.increment_size"

    def networks(self, key: str, context: Context) -> Iterator[Trained]:
        """The student, where its network is named."""
        if self.student.network:
            protocol = self.student.protocol or context.evaluation.protocols[0]
            yield Trained(f"{key}.student.network", self.student.network, protocol)

    def student_of_first(self, key: str, context: Context) -> Trained:
        """The student of the first increment."""
        protocol = self.student.protocol or context.evaluation.protocols[0]
        network = self.student.network or context.evaluation.networks[0]
        return Trained(f"{key}.student.protocol", network, protocol, self.increment_size)


class RealByLearnability(Incremental):
    """Real images of largest learnability, increment by increment as LGD has them: whether a generator is needed."""

    stage: ClassVar[str] = "select_by_learnability"
    kind: Literal["real_by_learnability"]
    increment_size: Count = Field(10, description="Images per class in one increment; the first one is random.")
    reference_weight: NonNegative = Field(0.5, description="Omega.")
    min_reference_probability: Fraction = Field(0.0, description="Images below it come last; 0: none do.")

    @property
    def real_images(self) -> Literal["none", "any", "not held out"]:
        """Any of them."""
        return "any"


class LGD(Incremental):
    """Learnability-guided diffusion (arXiv 2604.00519)."""

    stage: ClassVar[str] = "generate_increment"
    kind: Literal["lgd"]
    generator: Name
    seed: Name = Field("plain", description="First increment: `plain`, or the name of another method.")
    candidates: Count = Field(3, description="Kappa: images drawn per slot, of which one is kept.")
    choose: Literal["learnability", "random"] = "learnability"
    min_reference_probability: Fraction = Field(0.0, description="Candidates below it are left out; 0: none are.")
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
    def needs(self) -> Needs:
        """The generator, its autoencoder, and the reference."""
        return Needs(generator=self.generator, autoencoder=True, reference=self.reference)

    def modes(self, sizes: Sequence[int]) -> int:
        """Those of its mode guidance."""
        return 0 if self.mode is None else (self.mode.count or max(sizes))

    @property
    def calibrates(self) -> bool:
        """Whether a pilot chooses a strength or a weight."""
        return "auto" in (self.learnability.strength, self.learnability.reference_weight)

    def check(self, key: str, context: Context) -> Iterator[str]:
        """Whether it has its networks, its seed, and something to calibrate."""
        faults = list(check_generator(key, self.generator, context))
        yield from faults
        if not faults:
            yield from self._check_loop(key, context)
            yield from check_guidance(key, self, context)
        yield from check_shards(key, self.shards, len(context.class_names))

    def _check_loop(self, key: str, context: Context) -> Iterator[str]:
        steps = context.generators[self.generator].sampling.steps
        if (given := self.learnability.range) and given[1] >= steps:
            yield (
                f"{key}.learnability.range: {given[1]} lies beyond the {steps} sampling steps of "
                f"generators.{self.generator}.sampling.steps; allowed: 0 to {steps - 1}"
            )
        yield from super().check(key, context)
        yield from check_named(f"{key}.calibration.judge", "reference", self.calibration.judge, context.references)
        if self.seed != "plain":
            name = key.removeprefix("methods.")
            seed = context.methods.get(self.seed)
            if seed is None:
                others = ", ".join(other for other in context.methods if other != name)
                yield f"{key}.seed: no method {self.seed!r}; allowed: plain, {others}"
            elif isinstance(seed, LGD):
                yield f"{key}.seed: {self.seed!r} is an LGD method itself; allowed: plain, or a method of another kind"
        if self.learnability.reference_weight == "auto" and self.learnability.strength == 0:
            yield f"{key}.learnability.reference_weight: nothing to calibrate at strength 0; give a number"
