"""The parts of a distilled set that are compared: its increments, or random disjoint parts where it has none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from distillery.streams import stream


def parts_of(
    labels: np.ndarray, slots: np.ndarray, classes: Sequence[str], size: int, *, increments: bool, seed: int
) -> np.ndarray:
    """The part of each image, from 0; -1 for images that are left over.

    A set that grew in increments is cut by slot. Any other set is cut at random, class by class: the cut depends on the
    seed, the name of the class and the number of its images, and not on the order of the rows.

    Args:
        labels: (N,) int64, positions in `classes`.
        slots: (N,) int64, the place of an image in its class, from 0.
        classes: class names.
        size: images per class in one part.
        increments: whether the set grew in increments of `size` images per class.
        seed: of the experiment.

    Returns:
        (N,) int64. Every part holds `size` images of every class; there are as many parts as the smallest class fills,
        none if it has fewer than `size` images.
    """
    places = slots.astype(np.int64)
    if not increments:
        places = np.empty(len(labels), dtype=np.int64)
        for label, name in enumerate(classes):
            rows = np.flatnonzero(labels == label)
            rows = rows[np.argsort(slots[rows], kind="stable")]
            order = torch.randperm(len(rows), generator=stream(seed, "parts", name)).numpy()
            places[rows[order]] = np.arange(len(rows))
    count = int(np.bincount(labels, minlength=len(classes)).min()) // size
    parts = places // size
    return np.where(parts < count, parts, -1)


def slots_by_id(labels: np.ndarray, ids: Sequence[str]) -> np.ndarray:
    """A place within its class for each image of a set that has no slots: (N,) int64, by the order of the ids."""
    slots = np.empty(len(labels), dtype=np.int64)
    by_class = np.array(sorted(range(len(ids)), key=lambda row: (labels[row], ids[row])), dtype=np.int64)
    starts = np.searchsorted(labels[by_class], labels[by_class])
    slots[by_class] = np.arange(len(ids)) - starts
    return slots
