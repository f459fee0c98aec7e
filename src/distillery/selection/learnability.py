"""The choice among candidates, repeated on recorded scores."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

from distillery.errors import BadInput
from distillery.storage.images import ImageSet

ROUNDING = 1e-3
"""Largest difference in S that the same network may show on the same image in a batch of another size."""


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


def check_choice(candidates: ImageSet, scores: pa.Table, min_reference_probability: float) -> None:
    """Repeat the choice of the loop on scores of the stored images.

    Raises:
        BadInput: the scores are of other images, or an image was chosen although another one of its slot has a larger S
            by more than rounding explains.
    """
    if scores["path"].to_pylist() != candidates.paths:
        raise BadInput(
            "the scores are not of these candidates; delete them, so that `score_learnability` makes them again"
        )
    value = scores["learnability"].to_numpy().astype(np.float64)
    if not np.isfinite(value).all():
        raise BadInput("the scores are no numbers: the student or the reference has diverged; train it at a lower rate")
    probability, margin = scores["reference_probability"].to_numpy(), ROUNDING * (min_reference_probability > 0)
    valid, perhaps = (probability >= min_reference_probability + side for side in (margin, -margin))
    groups: dict[tuple[int, int], list[int]] = {}
    for row, place in enumerate(zip(candidates.labels.tolist(), candidates.columns["slot"].tolist(), strict=True)):
        groups.setdefault(place, []).append(row)
    for place, rows in groups.items():
        kept = next(row for row in rows if candidates.columns["chosen"][row])
        sure = [row for row in rows if valid[row]]
        unsure = [row for row in rows if perhaps[row]]
        best = max(value[row] for row in sure or ([kept] if kept in unsure else unsure) or rows)
        if (sure and kept not in unsure) or best - value[kept] > ROUNDING * max(1.0, abs(best)):
            raise BadInput(
                f"class {candidates.classes[place[0]]!r}, slot {place[1]}: the loop kept {candidates.paths[kept]} with "
                f"S = {value[kept]:.4f}, but {best:.4f} is the largest; student, reference or candidates were exchanged"
            )
