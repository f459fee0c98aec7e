"""How large networks are, told by name, side and channels of their images: without torch, and never more than they are.

Counted are convolutions and matrices alone; tests compare the counts with networks that are built.
"""

from __future__ import annotations

from distillery.counts import Counts, convolution, matrix
from distillery.students.names import OURS


def network_counts(name: str, side: int, channels: int, classes: int) -> Counts:
    """The counts of a network of this project, for images of this side in pixels; of one of timm nothing is known."""
    ours = OURS.fullmatch(name)
    if ours is None:
        return Counts()
    if ours["depth"]:
        return _convnet(int(ours["depth"]), int(ours["width"] or 128), side, channels, classes)
    family, width = ours["family"], int(ours["width"] or 64)
    if family == "vit_ld3m":
        return _vit(side, channels, classes)
    if family == "vgg11_in":
        return _plain([(64, 3), (128, 3), *2 * [(256, 3)], *4 * [(512, 3)]], [1, 2, 4, 4, 8, 8, 16, 16], side, channels)
    if family == "alexnet_small":
        widths = [(128, 5), (192, 5), (256, 3), (192, 3), (192, 3)]
        return _plain(widths, [1, 2, 4, 4, 4], side, channels)
    return _resnet(family, width, side, channels, classes)


def _convnet(depth: int, width: int, side: int, channels: int, classes: int) -> Counts:
    layers = [convolution(width if index else channels, width, side >> index) for index in range(depth)]
    return sum(layers, matrix(width * (side >> depth) ** 2, classes))


def _plain(widths: list[tuple[int, int]], smaller: list[int], side: int, channels: int) -> Counts:
    """Convolutions (channels, kernel) in a row, each at a fraction of the side."""
    counts, inner = Counts(), channels
    for (outer, kernel), times in zip(widths, smaller, strict=True):
        counts += convolution(inner, outer, side // times, kernel)
        inner = outer
    return counts


def _resnet(family: str, width: int, side: int, channels: int, classes: int) -> Counts:
    """The four stages of a ResNet with basic blocks; the stem follows the side, but for that of CIFAR."""
    stem = 1 if family == "resnet18_cifar_in" or side <= 64 else 2 if side <= 128 else 4
    large = family != "resnet18_cifar_in" and side > 128
    first = side if family == "resnet_ap10" or not large else side // 2
    counts = convolution(channels, width, first, 7 if large else 3) + matrix(8 * width, classes)
    depth, maps, inner = 2 if family.startswith("resnet18") else 1, side // stem, width
    for outer in (width, 2 * width, 4 * width, 8 * width):
        maps = maps if outer == width else maps // 2
        counts += convolution(inner, outer, maps) + convolution(outer, outer, maps)
        for _ in range(depth - 1):
            counts += convolution(outer, outer, maps) + convolution(outer, outer, maps)
        inner = outer
    return counts


def _vit(side: int, channels: int, classes: int, patch: int = 16, width: int = 512, depth: int = 10) -> Counts:
    tokens = (side // patch) ** 2
    block = matrix(width, 3 * width, tokens) + sum(3 * [matrix(width, width, tokens)], Counts())
    return sum(depth * [block], convolution(channels * patch**2, width, side // patch, 1) + matrix(width, classes))
