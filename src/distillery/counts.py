"""Counts of networks by their layers: parameters, products, and the numbers that a backward pass needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Counts:
    """Counts of a network, each a lower bound; they add up over its layers.

    Attributes:
        parameters: numbers that are trained.
        products: multiplications of one image on its way forward.
        kept: numbers of one image that a backward pass needs: the inputs of convolutions and matrices.
    """

    parameters: float = 0.0
    products: float = 0.0
    kept: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.parameters + other.parameters, self.products + other.products, self.kept + other.kept)


def convolution(inner: int, outer: int, side: int, kernel: int = 3) -> Counts:
    """A convolution from maps of `inner` channels to maps of `outer` channels, both at least `side` wide and high."""
    weights = float(inner * outer * kernel**2)
    return Counts(weights, weights * side**2, float(inner * side**2))


def matrix(inner: int, outer: int, tokens: int = 1) -> Counts:
    """A matrix that is applied to so many vectors of each image."""
    return Counts(float(inner * outer), float(inner * outer * tokens), float(inner * tokens))
