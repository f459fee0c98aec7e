"""Seeded random choice of real images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillery.data.reading import ImageTable
from distillery.ordering import seeded_order
from distillery.selection.by_class import rows_of_class
from distillery.storage.images import ImageSet


def random_order(images: ImageSet, label: int, count: int, seed: int) -> list[int]:
    """Rows of one class in random order, the first `count` of it.

    The order comes from the seed, the class name and each image's id alone: neither from the other classes, nor from
    the count, nor from the order of the rows.

    Raises:
        BadInput: the class has fewer images.
    """
    rows = rows_of_class(images, label, count).tolist()
    order = seeded_order([images.paths[row] for row in rows], seed, "select", images.classes[label])
    return [rows[position] for position in order[:count]]


def ordered_by_slot(images: ImageSet | ImageTable, orders: Sequence[Sequence[int]]) -> ImageSet:
    """The chosen rows of all classes, `orders` of one length, as an image set in the order slot, class, with slots."""
    chosen = np.array(orders, dtype=np.int64).T  # (slot, class)
    taken = images.take(chosen.ravel())
    taken.columns = {"slot": np.repeat(np.arange(len(chosen)), chosen.shape[1])}
    return taken
