"""Modes of a class: where its latents gather (MGD3, arXiv 2505.18963)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from distillery.errors import BadInput
from distillery.guidance.mode_clusters import NOISE, weights_of_clusters
from distillery.storage.tensors import read_tensors
from distillery.streams import stream

Discovery = Literal["centroid", "nearest", "random", "dbscan", "spectral", "mixture"]


def discover_modes(
    latents: Tensor, count: int, *, discovery: Discovery, smallest_cluster: int, pool: int | None, seed: int
) -> Tensor:
    """As many modes of one class as are wanted: clusters of its latents, by an algorithm of scikit-learn.

    The first modes represent the class best: each is the one that brings the latents nearest to a mode, after those
    before it. So the first increments of a set share the modes of all of it.

    Args:
        latents: (N, C, h, w) of one class, scaled, N at least `count`.
        discovery: `centroid`: the mean of each cluster, as published; `nearest`: its latent closest to that mean;
            `random`: latents at random, without clusters; `dbscan`, `spectral`: the mean of each cluster of these
            algorithms; `mixture`: the means of a mixture of normal distributions with diagonal covariances. Where
            DBSCAN finds fewer clusters than modes, the largest ones give theirs again.
        smallest_cluster: a cluster of fewer latents is dissolved into the others, and the largest ones stand in for
            it: their mode is there more than once.
        pool: side that latents are average-pooled to before they are clustered; the mean is one of full latents.

    Returns:
        (count, C, h, w).

    Raises:
        BadInput: fewer latents than modes.
    """
    if len(latents) < count:
        raise BadInput(f"{count} modes of {len(latents)} images; a mode needs an image of its own")
    if discovery == "random":
        return latents[torch.randperm(len(latents), generator=stream(seed, "modes"))[:count]]
    described = latents if pool is None else F.adaptive_avg_pool2d(latents, pool)
    points = described.flatten(1).double().numpy()
    if discovery in ("dbscan", "spectral", "mixture"):
        weights, of_latent = weights_of_clusters(points, count, discovery, smallest_cluster, seed)
        weights = weights / weights.sum(0)
        means = torch.from_numpy(weights.T @ latents.flatten(1).double().numpy()).to(latents.dtype)
        in_clusters = of_latent != NOISE
        distances = cdist(points[in_clusters], weights.T @ points, "sqeuclidean")
        return means.view(-1, *latents.shape[1:])[slots_of_modes(distances, of_latent[in_clusters], count)]
    clusters = KMeans(count, random_state=seed, n_init="auto").fit(points)
    if (different := len(set(clusters.labels_.tolist()))) < count:
        raise BadInput(f"{count} modes, but the class has only {different} different images")
    centers, of_latent = dissolve_small(points, clusters.cluster_centers_, smallest_cluster)
    distances = cdist(points, centers, "sqeuclidean")
    modes = []
    for cluster in range(len(centers)):
        rows = np.flatnonzero(of_latent == cluster)
        nearest = latents[rows[np.argmin(distances[rows, cluster])]]
        modes.append(latents[rows].mean(0) if discovery == "centroid" else nearest)
    return torch.stack(modes)[slots_of_modes(distances, of_latent, count)]


def dissolve_small(
    points: NDArray[np.float64], centers: NDArray[np.float64], smallest: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Dissolve the smallest cluster into the others, until every one has enough points.

    Args:
        points: (N, d).
        centers: (k, d).
        smallest: points that a cluster needs.

    Returns:
        centers: (at most k, d), means of their points.
        of_point: (N,) the cluster of each point.
    """
    while True:
        of_point = cdist(points, centers, "sqeuclidean").argmin(1)
        sizes = np.bincount(of_point, minlength=len(centers))
        if len(centers) == 1 or sizes.min() >= smallest:
            return centers, of_point
        kept = np.arange(len(centers)) != sizes.argmin()
        of_kept = cdist(points, centers[kept], "sqeuclidean").argmin(1)
        taken = np.flatnonzero(np.bincount(of_kept, minlength=kept.sum()))
        centers = np.stack([points[of_kept == cluster].mean(0) for cluster in taken])


def slots_of_modes(distances: NDArray[np.float64], of_latent: NDArray[np.int64], count: int) -> list[int]:
    """The mode of each slot: every mode once, the most representative first; then again those of large clusters.

    Args:
        distances: (N, k), squared, of each latent to each mode.
        of_latent: (N,) the mode of each latent.
        count: slots, at least k.
    """
    nearest = np.full(len(distances), np.inf)
    order: list[int] = []
    for _ in range(distances.shape[1]):
        remaining = [mode for mode in range(distances.shape[1]) if mode not in order]
        best = min(remaining, key=lambda mode: float(np.minimum(nearest, distances[:, mode]).sum()))
        nearest = np.minimum(nearest, distances[:, best])
        order.append(best)
    sizes = np.bincount(of_latent, minlength=len(order))
    times = np.ones(len(order))
    while len(order) < count:
        again = int(np.argmax(sizes / (times + 1)))  # D'Hondt
        times[again] += 1
        order.append(again)
    return order


def nearest_latents(latents: Tensor, modes: Tensor, pool: int | None) -> list[int]:
    """The latent nearest to each mode, one after the other, of those that no mode before it has taken.

    Args:
        latents: (N, C, h, w) of one class, N at least the number of modes.
        modes: (count, C, h, w).
        pool: side that both are average-pooled to before they are compared.

    Returns:
        `count` different rows.
    """
    compared = (
        (latents, modes) if pool is None else tuple(F.adaptive_avg_pool2d(each, pool) for each in (latents, modes))
    )
    points, targets = (each.flatten(1).double().numpy() for each in compared)
    distances = cdist(targets, points, "sqeuclidean")
    rows: list[int] = []
    for row in distances:
        row[rows] = np.inf
        rows.append(int(row.argmin()))
    return rows


def read_modes(path: Path, classes: Sequence[str]) -> Tensor:
    """The modes of these classes, in this order: (classes, modes, C, h, w). A file holds them by class *name*.

    Raises:
        BadInput: the file lacks a class.
    """
    modes, _ = read_tensors(path, "discover_modes")
    if lacking := [name for name in classes if name not in modes]:
        raise BadInput(f"{path}: no modes of class {lacking[0]!r}; there are modes of {', '.join(sorted(modes)[:20])}")
    return torch.stack([modes[name] for name in classes])
