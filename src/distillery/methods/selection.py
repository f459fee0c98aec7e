"""Methods that select real images: at random, by features, by learnability, and all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from distillery.methods.base import Context, Method, Needs, Part, RealImageUse, check_named
from distillery.settings import Name

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from distillery.data.reading import ImageTable
    from distillery.storage.images import ImageSet

Order = list[int]
"""Rows of one class, the first to be selected first."""


class Full(Method):
    """All training images."""

    stage: ClassVar[str] = "ingest"
    kind: Literal["full"]

    def sizes(self, ipc: Sequence[int]) -> list[int] | list[str]:
        return ["full"]


class Selection(Method):
    """Real images, class by class, in an order whose beginnings are the smaller sets."""

    stage: ClassVar[str] = "select"
    real_images: ClassVar[RealImageUse] = "any"

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        return [Part("selected", {"ipc": ipc})]

    def select(self, table: ImageTable, ipc: int, seed: int, features: Path | None) -> ImageSet:
        """So many images of each class, in the order slot, class; of the table only those are read.

        Raises:
            BadInput: a class has fewer images.
        """
        from distillery.selection.by_class import read_features
        from distillery.selection.random import ordered_by_slot
        from distillery.storage.images import ImageSet

        real = ImageSet([], table.labels, table.classes, table.paths())
        described = read_features(features, real.paths) if features is not None else None
        orders = [self.order(real, label, ipc, seed, described) for label in range(len(real.classes))]
        return ordered_by_slot(table, orders)

    def order(self, real: ImageSet, label: int, count: int, seed: int, features: np.ndarray | None) -> Order:
        """The first `count` rows of a class in the order of the selection; features are (N, D).

        Raises:
            BadInput: the class has fewer images.
        """
        raise NotImplementedError


class Random(Selection):
    """Real images drawn at random, class by class, nested over sizes."""

    kind: Literal["random"]

    @property
    def cut_by_slot(self) -> bool:
        return True

    def order(self, real: ImageSet, label: int, count: int, seed: int, features: np.ndarray | None) -> Order:
        from distillery.selection.random import random_order

        return random_order(real, label, count, seed)


class _ByFeatures(Selection):
    features: Name = Field(description="The network of `references` whose last hidden layer describes an image.")

    @property
    def needs(self) -> Needs:
        return Needs(features=self.features)

    def check(self, key: str, context: Context) -> Iterator[str]:
        yield from check_named(f"{key}.features", "reference", self.features, context.references)

    def order(self, real: ImageSet, label: int, count: int, seed: int, features: np.ndarray | None) -> Order:
        from distillery.selection.by_class import order_of_class

        assert features is not None
        described = features
        return order_of_class(real, label, count, lambda rows: self._order(described, rows, real, label, count, seed))

    def _order(
        self, features: np.ndarray, rows: np.ndarray, real: ImageSet, label: int, count: int, seed: int
    ) -> Order:
        raise NotImplementedError


class Herding(_ByFeatures):
    """Real images whose mean feature stays close to that of their class, nested over sizes (arXiv 1611.07725)."""

    kind: Literal["herding"]
    normalise: bool = Field(False, description="Bring each feature to unit length first, as iCaRL does.")

    def _order(
        self, features: np.ndarray, rows: np.ndarray, real: ImageSet, label: int, count: int, seed: int
    ) -> Order:
        from distillery.selection.herding import herding_order

        return herding_order(features[rows], count, normalise=self.normalise)


class KCenter(_ByFeatures):
    """Real images that leave none of their class far from a chosen one, nested over sizes (arXiv 1708.00489)."""

    kind: Literal["k_center"]
    metric: Literal["euclidean", "cosine"] = Field(
        "euclidean", description="How far two features lie apart; `cosine` ignores their lengths."
    )
    first: Literal["centre", "random"] = Field(
        "centre", description="The first image: the one closest to the mean of its class, or one that the seed draws."
    )

    def _order(
        self, features: np.ndarray, rows: np.ndarray, real: ImageSet, label: int, count: int, seed: int
    ) -> Order:
        from distillery.selection.k_center import k_center_order
        from distillery.selection.random import random_order

        drawn = random_order(real, label, 1, seed) if self.first == "random" else []
        start = rows.tolist().index(drawn[0]) if drawn else None
        return k_center_order(features[rows], count, metric=self.metric, start=start)


if TYPE_CHECKING:
    AnySelection = Selection
else:
    AnySelection = Annotated[Random | Herding | KCenter, Field(discriminator="kind")]
