"""Methods that sample a generator size by size: without guidance, and with the guidances of IGD and MGD3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from distillery.guidance.base import GuidanceContext
from distillery.guidance.mode import Mode
from distillery.guidance.registry import Guidances
from distillery.methods.base import Context, Method, Needs, Part, check_named, check_shards, smaller
from distillery.settings import Name, Shards


class Sampled(Method):
    """A generator that is sampled size by size, with the guidances that the method holds."""

    stage: ClassVar[str] = "sample"

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The guidances of this kind, by name, with the settings that differ from the defaults of their blocks."""

    generator: Name
    guidance: Guidances = Field(
        default_factory=dict,
        validate_default=True,
        description="Guidances by name, merged over those of the kind; null switches one off.",
    )
    stream: Name | None = Field(
        None, description="Methods of one stream share all their noise; none: the method's name."
    )
    shards: Shards = Field(1, description="Jobs that the classes are spread over.")

    @field_validator("guidance", mode="before")
    @classmethod
    def _over_published(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        merged = {**cls.published, **value}
        for name, published in cls.published.items():
            if isinstance(block := value.get(name), Mapping):
                merged[name] = {**published, **block}
        return merged

    @property
    def needs(self) -> Needs:
        return Needs(generator=self.generator, autoencoder=True)

    @property
    def cut_by_slot(self) -> bool:
        return self.incremental or not self.guidance.present()

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        made = [size for size in sorted(sizes) if smaller(size, sizes) < ipc] if self.nested else [ipc]
        return [Part("sampled", {"ipc": size, "shard": shard}) for size in made for shard in range(self.shards)]

    def jobs(self, sizes: Sequence[int]) -> int:
        """The shards of each size, and what collects them."""
        return (self.shards + 1) * len(sizes)

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from check_named(f"{key}.generator", "generator", self.generator, context.generators)
        yield from check_shards(key, self.shards, len(context.class_names))
        if (generator := context.generators.get(self.generator)) is None:
            return
        if not generator.samples:
            where = f"{key}.generator: generators.{self.generator}"
            yield f"{where} is a UNet, which methods of kind ld3m alone take; give a DiT"
        about = GuidanceContext(
            generator=self.generator,
            sampling=generator.sampling,
            surrogates=list(context.surrogates),
            latent_side=context.latent_side,
            increments=self.incremental,
        )
        yield from self.guidance.check(f"{key}.guidance", about)

    def check_groups(self, key: str, generator: str, groups: int) -> Iterator[str]:
        if self.shards % groups:
            yield (
                f"{key}.shards: {self.shards} jobs, and each samples the classes of one group of {generator}; allowed: "
                f"a multiple of its {groups} groups"
            )

    def check_sizes(self, key: str, sizes: Sequence[int], images: Mapping[str, int]) -> Iterator[str]:
        yield from self.guidance.check_sizes(key, sizes, images)


class Plain(Sampled):
    """Sampling without guidance, unless the file gives one (method DiT)."""

    kind: Literal["plain"]


class IGD(Sampled):
    """Influence-guided diffusion (ICLR 2025, OpenReview 0whx8MhysK): influence and deviation, nested over sizes."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "influence": {},
        "deviation": {"capacity": 64, "published_strength": 120.0},
    }

    kind: Literal["igd"]


class MGD3(Sampled):
    """Mode-guided diffusion (arXiv 2505.18963): every image is drawn towards a mode of its own.

    Without `guidance.mode.count` the modes are discovered for every size, and sizes are not nested.
    """

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"mode": {}}

    kind: Literal["mgd3"]

    @property
    def nested(self) -> bool:
        mode = self.guidance.get(Mode)
        return mode is None or mode.count is not None
