"""Shared by every choice within a class: its rows in the order of their ids, features and learnability."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from distillery.errors import BadInput, damaged
from distillery.storage.images import ImageSet
from distillery.storage.tables import read_table


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


def read_features(path: Path, ids: Sequence[str]) -> np.ndarray:
    """Features (N, F) fp32 in the order of the images of these ids, as `extract_features` wrote them.

    Raises:
        DamagedArtifact: not a table of features, or not of these images.
    """
    table = read_table(path, "extract_features")
    try:
        if table["path"].to_pylist() != list(ids):
            raise ValueError("it describes other images")
        column = table["features"].combine_chunks()
        return np.asarray(column.flatten().to_numpy().reshape(-1, column.type.list_size))
    except (KeyError, ValueError, AttributeError) as error:
        raise damaged(path, "extract_features", error) from error


def chosen_rows(candidates: ImageSet) -> ImageSet:
    """The chosen candidates in the order slot, class."""
    rows = np.flatnonzero(candidates.columns["chosen"])
    order = np.lexsort((candidates.labels[rows], candidates.columns["slot"][rows]))
    return candidates.take(rows[order])


def most_learnable(
    images: ImageSet, label: int, count: int, learnability: np.ndarray, valid: np.ndarray, taken: Collection[str]
) -> list[int]:
    """The rows of one class of largest S, ties to the lowest id, that are not taken; invalid ones come last.

    Args:
        learnability: (N,), of all images.
        valid: (N,) bool, whether the reference recognises an image well enough.
        taken: ids that are out.

    Raises:
        BadInput: the class has fewer images left.
    """
    left = [row for row in np.flatnonzero(images.labels == label).tolist() if images.paths[row] not in taken]
    if len(left) < count:
        name = images.classes[label]
        raise BadInput(f"ipc: class {name!r} has {len(left)} training images that are not taken, fewer than {count}")
    return sorted(left, key=lambda row: (not valid[row], -float(learnability[row]), images.paths[row]))[:count]
