"""How much of the real set a distilled one reaches: precision, recall, density and coverage (arXiv 2002.09797)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from distillery.errors import BadInput

ROUNDING = 1e-6
"""By this share balls are smaller than their radius, whose last digits depend on how distances are computed: the
neighbour that a ball reaches to lies on it, and not in it."""


@dataclass(frozen=True)
class CoverageShares:
    """Shares, 0 to 1; density may lie above 1.

    Attributes:
        precision: distilled images that lie in the ball of a real one.
        recall: real images that lie in the ball of a distilled one; not a number where there are not more than k.
        density: how many balls of real images hold a distilled one, over k, on average.
        coverage: real images whose ball holds a distilled one.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage_of(real: np.ndarray, distilled: np.ndarray, k: int = 5) -> CoverageShares:
    """Compare features (N, F) and (M, F) by balls around each point that reach to its k-th neighbour in its own set.

    Raises:
        BadInput: at most k real images.
    """
    if len(real) <= k:
        raise BadInput(f"coverage: {k} neighbours among {len(real)} real images; allowed: 1 to {len(real) - 1}")
    real, distilled = real.astype(np.float64), distilled.astype(np.float64)
    around_real = (1 - ROUNDING) * radii(real, k)
    reached = radii(distilled, k) if len(distilled) > k else np.full(len(distilled), np.nan)
    around_distilled = (1 - ROUNDING) * reached
    inside, recalled, covered, start = np.zeros(len(distilled), dtype=np.int64), 0, 0, 0
    for distances in pairwise_distances_chunked(real, distilled):
        ball = around_real[start : start + len(distances), None]
        start += len(distances)
        inside += (distances < ball).sum(0)
        covered += int((distances.min(1, keepdims=True) < ball).sum())
        recalled += int((distances < around_distilled).any(1).sum())
    return CoverageShares(
        precision=float((inside > 0).mean()),
        recall=recalled / len(real) if len(distilled) > k else float("nan"),
        density=float(inside.sum() / (k * len(distilled))),
        coverage=covered / len(real),
    )


def radii(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of each point to its k-th neighbour, itself not counted: (N,), N more than k."""
    # The first neighbour is the point itself, or an equal one.
    distances, _ = NearestNeighbors(n_neighbors=k + 1).fit(points).kneighbors(points)
    return np.asarray(distances[:, k])
