"""Images by learnability: the chosen candidates of an increment, and the most learnable real images."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from distillery.errors import BadInput
from distillery.storage.images import ImageSet


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
