"""K-Center: real images that leave no image of their class far from a chosen one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from distillery.selection.by_class import class_features


def k_center_order(
    features: np.ndarray, count: int, *, metric: Literal["euclidean", "cosine"] = "euclidean", start: int | None = None
) -> list[int]:
    """Positions in the order farthest first: each image is the one farthest from all before it.

    The covering radius of every beginning is at most twice the smallest possible one. Ties go to the lowest position.
    A smaller count gives the beginning of a larger one.

    Args:
        features: (N, F) of one class, sorted by image id.
        count: images to choose, at most N.
        metric: `cosine` compares directions: Euclidean distances of unit-length features, which order as
            1 - cosine does.
        start: position of the first image; None: the one closest to the mean feature.

    Returns:
        `count` different positions in `features`.

    Raises:
        BadInput: a feature is not finite.
        ValueError: not a matrix, fewer rows than `count`, or no row `start`.

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985; as a coreset, Sener and
    Savarese (arXiv 1708.00489).
    """
    rows = class_features(features, count, unit_length=metric == "cosine")
    if start is not None and not 0 <= start < len(rows):
        raise ValueError(f"start: no row {start} among {len(rows)}")
    if count == 0:
        return []
    last = int(np.argmin(_squared_distances(rows, rows.mean(axis=0)))) if start is None else start
    chosen = [last]
    nearest = np.full(len(rows), np.inf)  # squared distance to the nearest chosen image
    while len(chosen) < count:
        nearest = np.minimum(nearest, _squared_distances(rows, rows[last]))
        nearest[last] = -np.inf  # among duplicates all distances are 0, and a chosen image could return
        last = int(np.argmax(nearest))
        chosen.append(last)
    return chosen


def covering_radius(features: np.ndarray, chosen: Sequence[int]) -> float:
    """Largest Euclidean distance of an image to the nearest chosen one; infinite if none is chosen.

    Features are (N, F) of one class, and `chosen` are positions in them.

    Raises:
        BadInput: a feature is not finite.
        ValueError: not a matrix, or no image.
    """
    rows = class_features(features, 1, unit_length=False)
    nearest = np.full(len(rows), np.inf)
    for position in chosen:
        nearest = np.minimum(nearest, _squared_distances(rows, rows[position]))
    return float(np.sqrt(nearest.max()))


def _squared_distances(rows: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of each row to a point: (N,).

    By differences: equal rows get equal distances, and a row has distance 0 to itself. a^2 + b^2 - 2ab promises
    neither.
    """
    return np.square(rows - point).sum(axis=1)
