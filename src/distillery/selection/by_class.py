"""Shared by every choice within a class: its rows in the order of their ids, and features to compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from distillery.errors import BadInput
from distillery.storage.images import ImageSet


def rows_of_class(images: ImageSet, label: int, count: int) -> np.ndarray:
    """Rows of one class, sorted by image id: (N,) int64, N at least `count`.

    Raises:
        BadInput: the class has fewer images.
    """
    rows = np.flatnonzero(images.labels == label)
    if len(rows) < count:
        name = images.classes[label]
        raise BadInput(f"ipc: class {name!r} has {len(rows)} training images, fewer than {count}")
    return np.array(sorted(rows.tolist(), key=lambda row: images.paths[row]), dtype=np.int64)


def order_of_class(
    images: ImageSet, label: int, count: int, choose: Callable[[np.ndarray], Sequence[int]]
) -> list[int]:
    """Rows of one class in the order that `choose` puts them in.

    Neither the other classes nor the order of the rows matters, and what `choose` leaves to the lowest position falls
    on the lowest id.

    Args:
        count: images that the class must have; as many as `choose` returns.
        choose: from the rows of the class, (N,) int64 sorted by image id, to the chosen *positions* among them.

    Raises:
        BadInput: the class has fewer images.
    """
    rows = rows_of_class(images, label, count)
    return [int(rows[position]) for position in choose(rows)]


def class_features(features: np.ndarray, count: int, *, unit_length: bool) -> np.ndarray:
    """Features (N, F) of one class, N at least `count`, as they are compared: float64, at unit length if wanted.

    A row of zeros stays one.

    Raises:
        BadInput: a feature is not finite.
        ValueError: not a matrix, or fewer rows than `count`.
    """
    if features.ndim != 2 or len(features) < count:
        raise ValueError(f"features of shape {features.shape} for {count} images; needed: (N, F), N at least {count}")
    rows = features.astype(np.float64)
    if not np.isfinite(rows).all():
        raise BadInput(
            "features: not all of them are finite, the network that made them has diverged; "
            "train it again with a lower learning_rate"
        )
    if unit_length:
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= np.where(length > 0, length, 1.0)
    return rows
