"""Modes of a class: where its latents gather (MGD3, arXiv 2505.18963)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from distillery.errors import BadInput
from distillery.storage.tensors import read_tensors
from distillery.streams import stream

Discovery = Literal["centroid", "nearest", "random"]


def discover_modes(latents: Tensor, count: int, *, discovery: Discovery, pool: int | None, seed: int) -> Tensor:
    """As many modes of one class as are wanted: k-means of scikit-learn on its latents.

    Args:
        latents: (N, C, h, w) of one class, scaled, N at least `count`.
        discovery: `centroid`: the mean of each cluster, as published; `nearest`: its latent closest to that mean;
            `random`: latents at random, without clusters.
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
    clusters = KMeans(count, random_state=seed, n_init="auto").fit(points)
    distances = np.square(points - clusters.cluster_centers_[clusters.labels_]).sum(1)
    modes = []
    for cluster in range(count):
        rows = np.flatnonzero(clusters.labels_ == cluster)
        if not len(rows):
            raise BadInput(
                f"{count} modes, but the class has only {len(set(clusters.labels_.tolist()))} different images"
            )
        modes.append(latents[rows].mean(0) if discovery == "centroid" else latents[rows[np.argmin(distances[rows])]])
    return torch.stack(modes)


def read_modes(path: Path, classes: Sequence[str]) -> Tensor:
    """The modes of these classes, in this order: (classes, modes, C, h, w). A file holds them by class *name*.

    Raises:
        BadInput: the file lacks a class.
    """
    modes, _ = read_tensors(path, "discover_modes")
    if lacking := [name for name in classes if name not in modes]:
        raise BadInput(f"{path}: no modes of class {lacking[0]!r}; there are modes of {', '.join(sorted(modes)[:20])}")
    return torch.stack([modes[name] for name in classes])
