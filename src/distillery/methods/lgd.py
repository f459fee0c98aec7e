"""Methods whose sets grow in increments: learnability-guided diffusion, and its control among real images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from distillery.guidance.calibration import MOST_CLASSES, affordable_images, affordable_settings, pilot_slots
from distillery.guidance.learnability import Learnability
from distillery.guidance.mode import Mode
from distillery.guidance.settings import Calibration
from distillery.methods.base import Context, Method, Needs, Part, RealImageUse, Trained, check_named
from distillery.methods.sampling import Sampled
from distillery.settings import Fraction, Images, Name, NonNegative, Repeats
from distillery.students.settings import Student


class Incremental(Method):
    """A method that trains students on its increments so far, to choose the next one."""

    incremental: ClassVar[bool] = True
    reference: Name = Field(description="The network that says what is valid.")
    increment_size: Images = Field(10, description="Images per class in one increment.")
    student: Student = Student()

    @property
    def needs(self) -> Needs:
        return Needs(reference=self.reference)

    @property
    def beginning(self) -> int:
        """How many increments at its beginning no student chooses."""
        return 1

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
        yield from self._check_checkpoints(key, context)

    def check_set(self, where: str, ipc: int, context: Context) -> Iterator[str]:
        if ipc % self.increment_size:
            size = self.increment_size
            yield f"{where} has no set of {ipc} images per class, but of multiples of {size}, its increment_size"

    def networks(self, key: str, context: Context) -> Iterator[Trained]:
        for index, network in enumerate(self.student.networks or ()):
            protocol = self.student.protocol or context.evaluation.protocols[0]
            yield Trained(f"{key}.student.networks[{index}]", network, protocol)

    def student_networks(self, key: str, context: Context) -> Iterator[Trained]:
        protocol = self.student.protocol or context.evaluation.protocols[0]
        for network in self.student.networks or context.evaluation.networks[:1]:
            yield Trained(f"{key}.student.protocol", network, protocol, self.increment_size, taught=True)

    def _check_checkpoints(self, key: str, context: Context) -> Iterator[str]:
        """Whether each checkpoint of a student is an epoch of its own, in every increment."""
        shares = self.student.checkpoints
        for student in self.student_networks(key, context) if len(shares) > 1 else ():
            for k in range(1, self.increments(context.ipc)):
                try:
                    recipe = student.protocol.recipe(
                        network=student.network, ipc=k * self.increment_size, classes=len(context.class_names)
                    )
                except ValueError:
                    return  # the networks have no learning rate, and `check_networks` says so
                if len({*self.student.checkpoint_epochs(recipe.epochs)}) < len(shares):
                    yield (
                        f"{key}.student.checkpoints: of the {recipe.epochs} epochs at increment {k}, two of the shares "
                        f"{', '.join(f'{share:g}' for share in shares)} are the same epoch; give fewer, or more epochs"
                    )
                    return


class RealByLearnability(Incremental):
    """Real images of largest learnability, increment by increment as LGD has them: whether a generator is needed.

    They may follow the first images of another method's set: such a set is in part distilled, in part real.
    """

    stage: ClassVar[str] = "select_by_learnability"
    real_images: ClassVar[RealImageUse] = "any"
    kind: Literal["real_by_learnability"]
    increment_size: Images = Field(
        10, description="Images per class in one increment; without `seed` the first one is random."
    )
    seed: Name | None = Field(
        None, description="The method whose set the first increments are taken from; none: the first one is random."
    )
    seed_increments: Repeats = Field(1, description="How many increments are taken from the set of `seed`.")
    reference_weight: NonNegative = Field(0.5, description="Omega.")
    min_reference_probability: Fraction = Field(0.0, description="Images below it come last; 0: none do.")

    @property
    def uses_sets_of(self) -> list[str]:
        return [] if self.seed is None else [self.seed]

    @property
    def beginning(self) -> int:
        return 1 if self.seed is None else self.seed_increments

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from super().check(key, context)
        if self.seed is None:
            if self.seed_increments != 1:
                yield f"{key}.seed_increments: {self.seed_increments}, but there is no seed; give one, or leave it out"
            return
        seed, size = context.methods.get(self.seed), self.seed_increments * self.increment_size
        if seed is None:
            others = [
                other
                for other, method in context.methods.items()
                if not isinstance(method, RealByLearnability) and method.sizes([1]) == [1]
            ]
            yield f"{key}.seed: no method {self.seed!r}; allowed: {', '.join(others)}"
        elif isinstance(seed, RealByLearnability):
            yield f"{key}.seed: {self.seed!r} is a real_by_learnability method; allowed: a method of another kind"
        else:
            yield from seed.check_set(f"{key}.seed: {self.seed!r}", size, context)
        if size >= (largest := max(context.ipc)):
            yield (
                f"{key}.seed_increments: {self.seed_increments} increments of {self.increment_size} images per class "
                f"leave no real image in sets of {largest}; take fewer, or add an ipc above {size}"
            )


PLAIN, GUIDED = "plain", "guided"
"""First increments that are no set of another method."""


class LGD(Incremental, Sampled):
    """Learnability-guided diffusion (arXiv 2604.00519): learnability and deviation, from the second increment on."""

    stage: ClassVar[str] = "generate_increment"
    nested: ClassVar[bool] = True  # a set is its first increments, whatever guides them
    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"learnability": {}, "deviation": {}}
    kind: Literal["lgd"]
    seed: Name = Field(
        PLAIN,
        description="First increment: `plain` sampling, `guided` by all guidances but learnability, or the name of "
        "another method.",
    )
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
    def uses_sets_of(self) -> list[str]:
        return [] if self.seed in (PLAIN, GUIDED) else [self.seed]

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
        """Whether a pilot chooses a strength, a weight or the modes' settings."""
        learnability = self.guidance.get(Learnability)
        if learnability is None:
            return False
        searched = self.calibration.mode_strengths or self.calibration.mode_stops
        return bool(searched) or "auto" in (learnability.strength, learnability.reference_weight)

    @property
    def strength_by_increment(self) -> bool:
        """Whether the strength of learnability is a mapping from increments."""
        learnability = self.guidance.get(Learnability)
        return learnability is not None and isinstance(learnability.strength, dict)

    def guided_images(self, sizes: Sequence[int], classes: int) -> int:
        """Images that the increments after the first draw, all candidates counted."""
        return (self.increments(sizes) - 1) * self.increment_size * self.candidates * classes

    def pilot_images(self, sizes: Sequence[int], classes: int) -> int:
        """Images of one setting that the pilot measures."""
        calibration = self.calibration
        loop, most = self.guided_images(sizes, classes), calibration.most_settings
        return calibration.images or affordable_images(calibration.budget, loop, most)

    def pilot_ipc(self, sizes: Sequence[int], classes: int) -> int:
        """Images per class that a student of the first increment and a pilot learns."""
        return self.increment_size + pilot_slots(self.pilot_images(sizes, classes), classes)

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from Sampled.check(self, key, context)
        if self.guidance.get(Learnability) is None:
            yield f"{key}.guidance.learnability: candidates are scored with it; write {{strength: 0}} to switch it off"
        yield from Incremental.check(self, key, context)
        yield from check_named(f"{key}.calibration.judge", "reference", self.calibration.judge, context.references)
        if self.calibrates:
            yield from self._check_calibration(f"{key}.calibration", context)
        seed = context.methods.get(self.seed)
        if self.seed in (PLAIN, GUIDED):
            if seed is not None and "seed" in self.model_fields_set:
                yield f"{key}.seed: {self.seed!r} is a word of this key, and a method is named so too; rename it"
            if self.seed == GUIDED and not {*self.guidance.acting} - {"learnability"}:
                yield f"{key}.seed: 'guided', but there is no guidance beside learnability; add one, or seed: plain"
            return
        if seed is None:
            others = ", ".join(other for other in context.methods if f"methods.{other}" != key)
            yield f"{key}.seed: no method {self.seed!r}; allowed: plain, guided, {others}"
        elif isinstance(seed, LGD):
            yield f"{key}.seed: {self.seed!r} is an LGD method; allowed: plain, guided, or a method of another kind"
        else:
            yield from seed.check_set(f"{key}.seed: {self.seed!r}", self.increment_size, context)

    def check_groups(self, key: str, generator: str, groups: int) -> Iterator[str]:
        yield from super().check_groups(key, generator, groups)
        if self.calibrates:
            yield (
                f"{key}.guidance.learnability: a pilot samples all classes with one generator, and {generator} has "
                f"{groups} groups; give strength and reference_weight as numbers"
            )

    def _check_calibration(self, key: str, context: Context) -> Iterator[str]:
        calibration = self.calibration
        if calibration.aim == "accuracy" and context.dataset.validation is None:
            yield f"{key}.aim: accuracy is that on validation images; add dataset.validation: {{fraction: 0.2}}"
        if calibration.mode_strengths or calibration.mode_stops:
            if self.guidance.get(Mode) is None:
                yield f"{key}.mode_strengths, mode_stops: the method has no guidance.mode; add it, or leave them out"
            if self.strength_by_increment:
                yield (
                    f"{key}.mode_strengths, mode_stops: a pilot measures one strength, and "
                    "guidance.learnability.strength is a mapping; give a number, or leave them out"
                )
            generator = context.generators.get(self.generator)
            last = 0 if generator is None else generator.sampling.steps - 2
            if generator is not None and (stop := max(calibration.mode_stops, default=0)) > last:
                yield f"{key}.mode_stops: {stop} leaves no sampling index above it; allowed: 0 to {last}"
        if (classes := len(context.class_names)) < 2:
            return  # that is refused of the data set
        images = pilot_slots(self.pilot_images(context.ipc, classes), classes) * min(classes, MOST_CLASSES)
        if images < self.candidates:
            least = math.ceil(self.candidates / min(classes, MOST_CLASSES)) * min(classes, MOST_CLASSES)
            yield f"{key}.images: {images} make no slot of {self.candidates} candidates; allowed: {least} or more"
        weights = len(calibration.reference_weights) if self.reference_weight == "auto" else 1
        least = len(calibration.modes) * (1 + weights) + 1  # without learnability, one strength of each line, confirmed
        if calibration.most_settings < least:
            found = f"{key}.most_settings: {calibration.most_settings}"
            yield f"{found}, and its grid needs {least}; allowed: {least} or more"
        loop, most = self.guided_images(context.ipc, classes), calibration.most_settings
        if not calibration.images:
            return
        if loop and (allowed := affordable_settings(calibration.budget, loop, images)) < most:
            fewer = f"most_settings: {allowed}, " if allowed >= least else "fewer images, "
            yield (
                f"{key}.budget: {most} settings of {images} images are {most * images:,}, and the budget is "
                f"{calibration.budget:g} of the {loop:,} guided images of the loop; allowed: {fewer}a budget of at "
                f"least {math.ceil(100 * most * images / loop) / 100:g}, or a strength by hand"
            )
