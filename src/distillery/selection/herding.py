"""Herding: real images whose mean feature stays close to that of their class."""

from __future__ import annotations

import numpy as np

from distillery.selection.by_class import class_features

ROUNDING = 1e-10
"""Share of the largest squared distance to the mean within which two candidates tie: far above the rounding of float64,
far below that of features in float32."""


def herding_order(features: np.ndarray, count: int, *, normalise: bool = False) -> list[int]:
    """Positions in the order of herding: the mean of every beginning is greedily kept close to the mean of all.

    Step t = 1, 2, ... takes the image i, not yet taken, with the smallest ``|| t mu - sum_{j in S} f_j - f_i ||``.
    Ties go to the lowest position. A smaller count gives the beginning of a larger one.

    Args:
        features: (N, F) of one class, sorted by image id.
        count: images to choose, at most N.
        normalise: bring each feature to unit length first, as iCaRL does.

    Returns:
        `count` different positions in `features`.

    Raises:
        BadInput: a feature is not finite.
        ValueError: not a matrix, or fewer rows than `count`.

    Source: Welling, "Herding dynamical weights to learn", ICML 2009, in the form of algorithm 4 of iCaRL
    (arXiv 1611.07725). The argmax of a common port takes the farthest image; this is the argmin.
    """
    rows = class_features(features, count, unit_length=normalise)
    # With g = f - mu, the vector of step t is -(sum_{j in S} g_j + g_i): t is gone, and no large terms cancel.
    centred = rows - rows.mean(axis=0)
    squares = np.square(centred).sum(axis=1)
    tie = ROUNDING * squares.max(initial=0.0)
    objective = squares.copy()  # |g_i|^2 + 2 <sum_{j in S} g_j, g_i>; terms that all candidates share are left out
    chosen: list[int] = []
    for _ in range(count):
        objective[chosen] = np.inf
        best = int(np.argmax(objective <= objective.min() + tie))  # the first of those that tie
        chosen.append(best)
        objective += 2 * (centred @ centred[best])  # one column of the Gram matrix; whole, it takes N^2 values
    return chosen
