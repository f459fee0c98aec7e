"""The methods that sample a generator: without guidance, in the loop of LGD, or with the guidances of IGD and MGD3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from distillery.guidance.learnability import Learnability
from distillery.guidance.registry import Guidances
from distillery.guidance.settings import Calibration
from distillery.settings import Block, Count, Fraction, Name
from distillery.students.settings import Student


class Sampled(Block):
    """What all methods have in common that sample a generator."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """The guidances of this kind, by name, as far as they differ from the defaults of their blocks."""

    generator: Name
    guidance: Guidances = Field(
        default_factory=dict,
        validate_default=True,
        description="Guidances by name, merged over those of the kind; null switches one off.",
    )
    stream: str | None = Field(
        None, description="Methods of one stream share all their noise; none: the method's name."
    )
    shards: Count = Field(1, description="Jobs that the classes are spread over.")

    @field_validator("guidance", mode="before")
    @classmethod
    def _over_published(cls, value: object) -> object:
        """Each guidance of the file over that of the kind, key by key."""
        if not isinstance(value, Mapping):
            return value
        merged = {**cls.published, **value}
        for name, published in cls.published.items():
            if isinstance(block := value.get(name), Mapping):
                merged[name] = {**published, **block}
        return merged


class Plain(Sampled):
    """Sampling without guidance, unless the file gives one (method DiT)."""

    kind: Literal["plain"]


class LGD(Sampled):
    """Learnability-guided diffusion (arXiv 2604.00519): learnability and deviation, from the second increment on."""

    published: ClassVar[Mapping[str, Mapping[str, Any]]] = {"learnability": {}, "deviation": {}}

    kind: Literal["lgd"]
    reference: Name = Field(description="The network that says what is valid.")
    seed: Name = Field("plain", description="First increment: `plain`, or the name of another method.")
    increment_size: Count = Field(10, description="Images per class in one increment.")
    candidates: Count = Field(3, description="Kappa: images drawn per slot, of which one is kept.")
    choose: Literal["learnability", "random"] = "learnability"
    min_reference_probability: Fraction = Field(0.0, description="Candidates below it are left out; 0: none are.")
    student: Student = Student()
    calibration: Calibration = Calibration()

    @property
    def calibrates(self) -> bool:
        """Whether a pilot chooses a strength or a weight."""
        learnability = self.guidance.get(Learnability)
        return learnability is not None and "auto" in (learnability.strength, learnability.reference_weight)


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
