"""Differentiable siamese augmentation: drawn first, on the CPU, and then applied to whatever shall see the same.

DSA (arXiv 2102.08259); its operations are those of `students.augment`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from distillery.students.augment import dsa
from distillery.students.presets import DSA


@dataclass(frozen=True)
class Drawn:
    """One draw: the operation, and the numbers that its parameters are computed from.

    Attributes:
        uniform: (1, 4), shared by all images, or (N, 4), a row for each.
    """

    operation: str
    uniform: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """The augmented images (N, C, H, W), standardised as they came."""
        uniform = self.uniform.to(images.device).expand(len(images), -1)
        return dsa(images, self.operation, uniform, align_corners=False)


def draw(draws: torch.Generator, count: int = 1) -> Drawn:
    """One operation of the six, uniformly, with parameters for `count` images."""
    operation = DSA[int(torch.randint(len(DSA), (), generator=draws))]
    return Drawn(operation, torch.rand(count, 4, generator=draws))
