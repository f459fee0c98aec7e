"""Methods whose sets grow in increments: learnability-guided diffusion, and its control among real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from distillery.guidance.learnability import Learnability
from distillery.guidance.settings import Calibration
from distillery.methods.base import Context, Method, Needs, Part, RealImageUse, Trained, check_named
from distillery.methods.sampling import Sampled
from distillery.settings import Fraction, Images, Name, NonNegative, Repeats
from distillery.students.settings import Student


class Incremental(Method):
    """A method that trains a student on its increments so far, to choose the next one."""

    incremental: ClassVar[bool] = True
    reference: Name = Field(description="The network that says what is valid.")
    increment_size: Images = Field(10, description="Images per class in one increment.")
    student: Student = Student()

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.reference)

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        return [Part("increment", {"k": k}) for k in range(1, -(-ipc // self.increment_size) + 1)]

    def increments(self, sizes: Sequence[int]) -> int:
        """How many increments its largest set has."""
        return max(sizes) // self.increment_size

    def jobs(self, sizes: Sequence[int]) -> int:
        """The increments, their students, and what collects each size."""
        return 2 * self.increments(sizes) + len(sizes)

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from check_named(f"{key}.reference", "reference", self.reference, context.references)
        for ipc in context.ipc:
            if ipc % self.increment_size:
                yield f"ipc: {ipc} is no multiple of the {self.increment_size} images of {key}.increment_size"

    def networks(self, key: str, context: Context) -> Iterator[Trained]:
        if self.student.network:
            protocol = self.student.protocol or context.evaluation.protocols[0]
            yield Trained(f"{key}.student.network", self.student.network, protocol)

    def students(self, key: str, context: Context) -> Iterator[Trained]:
        protocol = self.student.protocol or context.evaluation.protocols[0]
        network = self.student.network or context.evaluation.networks[0]
        yield Trained(f"{key}.student.protocol", network, protocol, self.increment_size)


class RealByLearnability(Incremental):
    """Real images of largest learnability, increment by increment as LGD has them: whether a generator is needed."""

    stage: ClassVar[str] = "select_by_learnability"
    real_images: ClassVar[RealImageUse] = "any"
    kind: Literal["real_by_learnability"]
    increment_size: Images = Field(10, description="Images per class in one increment; the first one is random.")
    reference_weight: NonNegative = Field(0.5, description="Omega.")
    min_reference_probability: Fraction = Field(0.0, description="Images below it come last; 0: none do.")


class LGD(Incremental, Sampled):
    """Learnability-guided diffusion (arXiv 2604.00519): learnability and deviation, from the second increment on."""

    stage: ClassVar[str] = "generate_increment"
    nested: ClassVar[bool] = True  # a set is its first increments, whatever guides them
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"learnability": {}, "deviation": {}}
    kind: Literal["lgd"]
    seed: Name = Field("plain", description="First increment: `plain`, or the name of another method.")
    candidates: Repeats = Field(3, description="Kappa: images drawn per slot, of which one is kept.")
    choose: Literal["learnability", "random"] = "learnability"
    min_reference_probability: Fraction = Field(0.0, description="Candidates below it are left out; 0: none are.")
    calibration: Calibration = Calibration()

    @property
    def needs(self) -> Needs:
        return Needs(generator=self.generator, autoencoder=True, reference=self.reference)

    @property
    def judges(self) -> list[str]:
        return [self.calibration.judge] if self.calibrates and self.calibration.judge else []

    @property
    def begins_with(self) -> list[str]:
        return [] if self.seed == "plain" else [self.seed]

    def jobs(self, sizes: Sequence[int]) -> int:
        """The shards of each increment, what chooses among them, its student, and what collects each size."""
        return (self.shards + 2) * self.increments(sizes) + len(sizes)

    @property
    def reference_weight(self) -> float | Literal["auto"]:
        """Omega, the weight of the reference term; `auto` where a pilot chooses it."""
        learnability = self.guidance.get(Learnability)
        return 0.0 if learnability is None else learnability.reference_weight

    @property
    def calibrates(self) -> bool:
        """Whether a pilot chooses a strength or a weight."""
        learnability = self.guidance.get(Learnability)
        return learnability is not None and "auto" in (learnability.strength, learnability.reference_weight)

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from Sampled.check(self, key, context)
        if self.guidance.get(Learnability) is None:
            yield f"{key}.guidance.learnability: candidates are scored with it; write {{strength: 0}} to switch it off"
        yield from Incremental.check(self, key, context)
        yield from check_named(f"{key}.calibration.judge", "reference", self.calibration.judge, context.references)
        seed = context.methods.get(self.seed)
        if self.seed == "plain":
            if seed is not None and "seed" in self.model_fields_set:
                yield f"{key}.seed: 'plain' stands for plain sampling, and a method is called so too; rename the method"
            return
        if seed is None:
            others = ", ".join(other for other in context.methods if f"methods.{other}" != key)
            yield f"{key}.seed: no method {self.seed!r}; allowed: plain, {others}"
        elif self.increment_size not in (sizes := seed.sizes([self.increment_size])):
            yield f"{key}.seed: {self.seed!r} has no set of {self.increment_size} images per class, but of {sizes[0]}"
        elif isinstance(seed, LGD):
            yield f"{key}.seed: {self.seed!r} is an LGD method itself; allowed: plain, or a method of another kind"
