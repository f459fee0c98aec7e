"""Methods that sample a generator, with or without guidances, and make no increments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from distillery.guidance.settings import Deviation, Influence, Learnability, Mode
from distillery.methods.base import Context, Method, Needs, Part, check_named, check_shards, nested_parts
from distillery.settings import Count, Name


class Sampling(Method):
    """A generator, sampled size by size."""

    stage: ClassVar[str] = "sample"
    generator: Name
    stream: str | None = Field(
        None, description="Methods of one stream share all their noise; none: the method's name."
    )
    shards: Count = Field(1, description="Jobs that the classes are spread over.")

    @property
    def needs(self) -> Needs:
        """The generator and its autoencoder."""
        return Needs(generator=self.generator, autoencoder=True)

    @property
    def remembers(self) -> bool:
        """Whether its guidances look at the images that it has."""
        return getattr(self, "deviation", None) is not None

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        """The shards of this size, and of the smaller ones that it begins with."""
        return nested_parts(ipc, sizes, self.shards, self.nested)

    def modes(self, sizes: Sequence[int]) -> int:
        """Those of its mode guidance."""
        mode = getattr(self, "mode", None)
        return 0 if mode is None else (mode.count or max(sizes))

    def check(self, key: str, context: Context) -> Iterator[str]:
        """Whether it has its generator, and what guides it."""
        faults = list(check_generator(key, self.generator, context))
        yield from faults or check_guidance(key, self, context)
        yield from check_shards(key, self.shards, len(context.class_names))


def check_generator(key: str, name: str, context: Context) -> Iterator[str]:
    """Whether a method has its generator, and can sample it."""
    yield from check_named(f"{key}.generator", "generator", name, context.generators)
    if name in context.generators and not context.generators[name].samples:
        yield (f"{key}.generator: generators.{name} is a UNet, which methods of kind ld3m alone take; give a DiT")


class Plain(Sampling):
    """Plain sampling of the generator: no guidance (method DiT)."""

    kind: Literal["plain"]


class IGD(Sampling):
    """Influence-guided diffusion (ICLR 2025, OpenReview 0whx8MhysK): influence and deviation, nested over sizes."""

    stage: ClassVar[str] = "sample_guided"
    kind: Literal["igd"]
    influence: Influence
    deviation: Deviation = Field(
        Deviation(capacity=64),
        description="`auto`: gamma = 120 d / 4096; range none: that of influence; capacity: 64 unless given.",
    )
    mode: Mode | None = Field(None, description="Modes as a third guidance.")

    @field_validator("deviation")
    @classmethod
    def _remembers_64(cls, deviation: Deviation) -> Deviation:
        """As published, unless the file says otherwise."""
        said = "capacity" in deviation.model_fields_set
        return deviation if said else deviation.model_copy(update={"capacity": 64})


class MGD3(Sampling):
    """Mode-guided diffusion (arXiv 2505.18963): every image is drawn towards a mode of its own.

    Without `mode.count` the modes are discovered for every size, and sizes are not nested.
    """

    stage: ClassVar[str] = "sample_guided"
    kind: Literal["mgd3"]
    mode: Mode = Mode()
    influence: Influence | None = Field(None, description="Influence as a second guidance.")
    deviation: Deviation | None = Field(None, description="Deviation as a further guidance; range none: that of mode.")

    @property
    def nested(self) -> bool:
        """Unless the modes are those of each size."""
        return self.mode.count is not None


def check_guidance(key: str, method: Any, context: Context) -> Iterator[str]:
    """Whether what guides a method has its networks, its indices and its latents."""
    sampling = context.generators[method.generator].sampling
    steps = sampling.steps
    where = f"the {steps} sampling steps of generators.{method.generator}.sampling.steps"
    influence, mode, deviation = (getattr(method, name, None) for name in ("influence", "mode", "deviation"))
    for name, block in (("influence", influence), ("deviation", deviation)):
        if block is not None and block.range and block.range[1] >= steps:
            yield f"{key}.{name}.range: {block.range[1]} lies beyond {where}; allowed: 0 to {steps - 1}"
    if mode is not None and mode.stop is not None and mode.stop >= steps - 1:
        yield (
            f"{key}.mode.stop: {mode.stop} leaves no index above it in {where}; allowed: 0 to {steps - 2}, or "
            "strength: 0"
        )
    side, pool = context.latent_side, mode.pool if mode is not None else None
    if side is not None and pool is not None and pool > side:
        yield f"{key}.mode.pool: {pool} is more than the side of the latents; allowed: 1 to {side}"
    if influence is not None and influence.repeats > 1 and sampling.solver == "dpm":
        yield (
            f"{key}.influence.repeats: {influence.repeats}, but generators.{method.generator}.sampling.solver: "
            "dpm remembers its steps and cannot take one again; allowed: 1, or another solver"
        )
    if influence is not None:
        where = f"{key}.influence.surrogate"
        yield from check_named(where, "surrogate", influence.surrogate, context.surrogates)


def guided_range(given: list[int] | None, steps: int, first: int = 10) -> list[int]:
    """First and last guided index: as given, or `first` to 45 of 50 scaled to the number of steps."""
    return given or [round(steps * first / 50), min(round(steps * 45 / 50), steps - 1)]


def resolved_guidance(experiment: Any, method: str) -> tuple[Learnability, Deviation]:
    """The guidances of an LGD method with their ranges as indices."""
    lgd = experiment.methods[method]
    steps = experiment.generators[lgd.generator].sampling.steps
    learnability = lgd.learnability.model_copy(update={"range": guided_range(lgd.learnability.range, steps)})
    deviation = lgd.deviation.model_copy(update={"range": lgd.deviation.range or learnability.range})
    return learnability, deviation


def resolved_steering(experiment: Any, method: str) -> tuple[Influence | None, Mode | None, Deviation | None]:
    """Influence, mode and deviation of a method as far as it has them, with their ranges as indices."""
    found = experiment.methods[method]
    steps = experiment.generators[found.generator].sampling.steps
    influence, mode, deviation = (getattr(found, name, None) for name in ("influence", "mode", "deviation"))
    beside = None
    if mode is not None:
        stop = min(round(steps * 25 / 50), steps - 2) if mode.stop is None else mode.stop  # one step is guided at least
        mode = mode.model_copy(update={"stop": stop})
        beside = [min(stop + 1, steps - 1), steps - 1]
    if influence is not None:
        influence = influence.model_copy(update={"range": guided_range(influence.range, steps, first=30)})
        beside = influence.range
    if found.kind == "lgd":
        deviation = resolved_guidance(experiment, method)[1]
    elif deviation is not None:
        deviation = deviation.model_copy(update={"range": deviation.range or beside})
    return influence, mode, deviation
