"""Mean and standard deviation of the channels, by the names that experiment files give them."""

from __future__ import annotations

from typing import Literal

Known = Literal["half", "imagenet", "cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"]

NAMED: dict[Known, tuple[list[float], list[float]]] = {
    "half": ([0.5], [0.5]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "cifar100": ([0.5071, 0.4866, 0.4409], [0.2673, 0.2564, 0.2762]),
    "mnist": ([0.1307], [0.3081]),
    "fashion_mnist": ([0.2861], [0.3530]),
    "svhn": ([0.4377, 0.4438, 0.4728], [0.1980, 0.2010, 0.1970]),
}
"""Mean and standard deviation of the channels, as the public code of DC (arXiv 2006.05929) and MTT has them."""


def channel_statistics(name: Known, channels: int) -> tuple[float | tuple[float, ...], float | tuple[float, ...]]:
    """Mean and standard deviation of so many channels of images in [0, 1]; a single value is that of every channel.

    Grey images of a coloured data set have the means over its colours.
    """
    mean, std = NAMED[name]
    if channels == 1 or len(mean) == 1:
        return sum(mean) / len(mean), sum(std) / len(std)
    return tuple(mean), tuple(std)
