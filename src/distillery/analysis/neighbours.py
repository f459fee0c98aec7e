"""The nearest real image of every image of a set: whether a generator copies what it was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min
from torch.nn.functional import adaptive_avg_pool2d

from distillery.data.reading import ImageTable
from distillery.students.features import features_of
from distillery.students.networks import Classifier

BATCH = 1024

SIDE = 32
"""Larger images are averaged down before their pixels are compared, so that fine noise hides no copy."""

SPACES = ("features", "pixels")
"""Where distances are measured: in the last hidden layer of a network, and between pixels."""

HELD_OUT = "held-out"
"""Stands for the method in the rows of test images."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest of the reference points of each query.

    Attributes:
        rows: (M,) int64, of the reference points; the first of equally near ones.
        distances: (M,) float64, Euclidean.
    """

    rows: np.ndarray
    distances: np.ndarray


def nearest(queries: np.ndarray, batches: Iterable[np.ndarray]) -> Neighbours:
    """Find the nearest reference point of each query (M, F), among batches (n, F) of them.

    The distance to the one that is found is computed from the difference, so that a copy has distance 0.
    """
    queries = queries.astype(np.float64)
    rows = np.zeros(len(queries), dtype=np.int64)
    least = np.full(len(queries), np.inf)
    start = 0
    for batch in batches:
        points = batch.astype(np.float64)
        indices, _ = pairwise_distances_argmin_min(queries, points)
        distances = np.linalg.norm(queries - points[indices], axis=1)
        nearer = distances < least
        rows[nearer], least[nearer] = start + indices[nearer], distances[nearer]
        start += len(points)
    return Neighbours(rows, least)


def real_neighbours(
    images: ImageTable, real: ImageTable, real_features: np.ndarray, network: Classifier
) -> dict[str, Neighbours]:
    """The nearest real image of each image, by features and by pixels.

    Args:
        real_features: (N, F) of the real images.
        network: whose last hidden layer they are.

    Returns:
        `SPACES` -> neighbours. The distance by pixels is the root mean square difference on a scale of 0 to 1, of
        images averaged down to at most `SIDE` pixels.
    """
    own = features_of(network, images).numpy()
    by_features = nearest(own, (real_features[start : start + BATCH] for start in range(0, len(real), BATCH)))
    side = min(SIDE, *real.shape[1:], *images.shape[1:])
    queries = np.concatenate(list(_pixels(images, side)))
    by_pixels = nearest(queries, _pixels(real, side))
    scaled = Neighbours(by_pixels.rows, by_pixels.distances / (255 * np.sqrt(queries.shape[1])))
    return {"features": by_features, "pixels": scaled}


def _pixels(table: ImageTable, side: int) -> Iterator[np.ndarray]:
    """Batches of images as rows of numbers, (n, F) fp32, 0 to 255."""
    for pixels, _ in table.batches(BATCH):
        images = pixels.float()
        if images.shape[-2:] != (side, side):
            images = adaptive_avg_pool2d(images, side)
        yield images.flatten(1).numpy()


def rows_of(
    found: dict[str, Neighbours], images: ImageTable, real: ImageTable, common: dict[str, object]
) -> list[dict[str, object]]:
    """One row per image and space: `common`, `space`, `row`, `class`, `real_row`, `real_class`, `distance`."""
    return [
        {
            **common,
            "space": space,
            "row": row,
            "class": images.classes[images.labels[row]],
            "real_row": int(real_row),
            "real_class": real.classes[real.labels[real_row]],
            "distance": float(distance),
        }
        for space, neighbours in found.items()
        for row, (real_row, distance) in enumerate(zip(neighbours.rows, neighbours.distances, strict=True))
    ]
