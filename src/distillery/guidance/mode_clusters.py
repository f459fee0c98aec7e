"""Clusters of the latents of a class by other algorithms than k-means: the ablation of MGD3 (arXiv 2505.18963).

The paper names the algorithms and not their settings, which are ours.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist, squareform
from sklearn.cluster import DBSCAN, SpectralClustering
from sklearn.mixture import GaussianMixture

from distillery.errors import BadInput

Clustering = Literal["dbscan", "spectral", "mixture"]

NOISE = -1
"""The cluster of a latent that DBSCAN leaves out."""

DENSE = 5
"""Latents that DBSCAN needs within its radius, the latent itself among them: the default of scikit-learn."""

RADII = 64
"""Radii that are tried, at equal shares of the distances to the latent that makes a latent dense."""

NEIGHBOURS = 10
"""Of a latent in the graph of spectral clustering: the default of scikit-learn."""


def weights_of_clusters(
    points: NDArray[np.float64], count: int, algorithm: Clustering, smallest_cluster: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The share of each point in each cluster, and the cluster of each point.

    Spectral clustering and the mixture are asked for `count` clusters; DBSCAN finds as many as it finds, `count` at
    most. Clusters without enough points are dissolved into the next ones, as those of k-means are.

    Args:
        points: (N, d), N at least `count`.
        smallest_cluster: points that a cluster needs.

    Returns:
        weights: (N, k), k at most `count`, at least 0; a cluster's mode is the mean of latents with these weights.
        of_point: (N,), `NOISE` for a point of no cluster.

    Raises:
        BadInput: fewer different points than clusters.
    """
    if (different := len(np.unique(points, axis=0))) < count:
        raise BadInput(f"{count} modes, but the class has only {different} different images")
    if algorithm == "mixture":
        # Full covariances of some thousand numbers cannot be estimated from some hundred images.
        mixture = GaussianMixture(count, covariance_type="diag", random_state=seed).fit(points)
        shares = mixture.predict_proba(points)
        of_point = shares.argmax(1).astype(np.int64)
        joined = join_small(points, of_point, smallest_cluster)
        if np.array_equal(joined, of_point) and len(np.unique(of_point)) == count:
            return shares, of_point
        of_point = joined
    elif algorithm == "spectral":
        of_point = join_small(points, _spectral(points, count, seed), smallest_cluster)
    else:
        of_point = join_small(points, _dbscan(points, count), smallest_cluster)
    names = np.unique(of_point[of_point != NOISE])
    weights = (of_point[:, None] == names).astype(np.float64)
    return weights, np.where(of_point == NOISE, NOISE, np.searchsorted(names, of_point))


def join_small(points: NDArray[np.float64], of_point: NDArray[np.int64], smallest: int) -> NDArray[np.int64]:
    """Let the points of the smallest cluster join those of the nearest means, until every cluster has enough."""
    while True:
        names, sizes = np.unique(of_point[of_point != NOISE], return_counts=True)
        if len(names) == 1 or sizes.min() >= smallest:
            return of_point
        kept = np.delete(names, sizes.argmin())
        means = np.stack([points[of_point == name].mean(0) for name in kept])
        small = of_point == names[sizes.argmin()]
        of_point = of_point.copy()
        of_point[small] = kept[cdist(points[small], means, "sqeuclidean").argmin(1)]


def _spectral(points: NDArray[np.float64], count: int, seed: int) -> NDArray[np.int64]:
    """Spectral clustering on the graph of nearest neighbours."""
    if count == 1 or count == len(points):  # nothing to embed
        return np.arange(len(points)) % count
    clusters = SpectralClustering(
        count,
        affinity="nearest_neighbors",
        n_neighbors=min(NEIGHBOURS, len(points) - 1),
        random_state=seed,
    )
    with (
        warnings.catch_warnings()
    ):  # groups far from each other make a graph of several parts, and that is what is looked for
        warnings.filterwarnings("ignore", message="Graph is not fully connected")
        return np.asarray(clusters.fit_predict(points), dtype=np.int64)


def _dbscan(points: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """DBSCAN at the radius that finds the most clusters, `count` at most, and of those the one with the least noise.

    Where no radius finds any, all points are one cluster.
    """
    distances = squareform(pdist(points))
    dense = min(DENSE, len(points))
    reach = np.sort(np.partition(distances, dense - 1, axis=1)[:, dense - 1])
    radii = np.unique(reach[np.linspace(0, len(reach) - 1, RADII).round().astype(int)])
    best, best_rank = np.zeros(len(points), dtype=np.int64), (0, 0)
    for radius in radii[radii > 0]:
        labels = DBSCAN(eps=float(radius), min_samples=dense, metric="precomputed").fit(distances).labels_
        found = len(np.unique(labels[labels != NOISE]))
        rank = (found, -int((labels == NOISE).sum()))
        if 0 < found <= count and (best_rank == (0, 0) or rank > best_rank):
            best, best_rank = labels.astype(np.int64), rank
    return best
