"""In which order real images of a class are chosen, by the settings of a method."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from distillery.selection.by_class import order_of_class
from distillery.selection.herding import herding_order
from distillery.selection.k_center import k_center_order
from distillery.selection.random import random_order
from distillery.selection.settings import Choice, Herding, KCenter, Random
from distillery.storage.images import ImageSet


@singledispatch
def chosen_order(
    choice: Choice, images: ImageSet, label: int, count: int, *, seed: int, features: np.ndarray | None
) -> list[int]:
    """Rows of one class in the order in which they are chosen, `count` of them.

    Args:
        features: (N, F) of all images, for the methods that compare them.

    Raises:
        BadInput: the class has fewer images, or a feature is not finite.
    """
    raise TypeError(f"{type(choice).__name__}: no choice of real images")


@chosen_order.register
def _(choice: Random, images: ImageSet, label: int, count: int, *, seed: int, features: np.ndarray | None) -> list[int]:
    return random_order(images, label, count, seed)


@chosen_order.register
def _(choice: Herding, images: ImageSet, label: int, count: int, *, seed: int, features: np.ndarray) -> list[int]:
    return order_of_class(
        images, label, count, lambda rows: herding_order(features[rows], count, normalise=choice.normalise)
    )


@chosen_order.register
def _(choice: KCenter, images: ImageSet, label: int, count: int, *, seed: int, features: np.ndarray) -> list[int]:
    def farthest_first(rows: np.ndarray) -> list[int]:
        drawn = random_order(images, label, 1, seed) if choice.first == "random" else []
        start = rows.tolist().index(drawn[0]) if drawn else None
        return k_center_order(features[rows], count, metric=choice.metric, start=start)

    return order_of_class(images, label, count, farthest_first)
