"""Settings of the choice of real images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from distillery.settings import Block, Count, Fraction, Name, NonNegative
from distillery.students.settings import Student


class Full(Block):
    """All training images."""

    kind: Literal["full"]


class Random(Block):
    """Real images drawn at random, class by class, nested over sizes."""

    kind: Literal["random"]


class Herding(Block):
    """Real images whose mean feature stays close to that of their class, nested over sizes (arXiv 1611.07725)."""

    kind: Literal["herding"]
    features: Name = Field(description="The network of `references` whose last hidden layer describes an image.")
    normalise: bool = Field(False, description="Bring each feature to unit length first, as iCaRL does.")


class KCenter(Block):
    """Real images that leave none of their class far from a chosen one, nested over sizes (arXiv 1708.00489)."""

    kind: Literal["k_center"]
    features: Name = Field(description="The network of `references` whose last hidden layer describes an image.")
    metric: Literal["euclidean", "cosine"] = Field(
        "euclidean", description="How far two features lie apart; `cosine` ignores their lengths."
    )
    first: Literal["centre", "random"] = Field(
        "centre", description="The first image: the one closest to the mean of its class, or one that the seed draws."
    )


Choice = Random | Herding | KCenter


class RealByLearnability(Block):
    """Real images of largest learnability, increment by increment as LGD has them: whether a generator is needed."""

    kind: Literal["real_by_learnability"]
    reference: Name = Field(description="The network that says what is valid.")
    increment_size: Count = Field(10, description="Images per class in one increment; the first one is random.")
    student: Student = Student()
    reference_weight: NonNegative = Field(0.5, description="Omega.")
    min_reference_probability: Fraction = Field(0.0, description="Images below it come last; 0: none do.")
