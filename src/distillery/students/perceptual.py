"""How different two images look to a network: the distance of its features at several depths (arXiv 1801.03924)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distillery.students.networks import Classifier

DEPTHS = 5


class PerceptualDistance:
    """Mean squared distance of features of unit length, over places, at up to five convolutions of a network.

    No depth has a learned weight: all count alike.
    """

    def __init__(self, classifier: Classifier, weight: float) -> None:
        """
        Raises:
            ValueError: the network has no convolutions.
        """
        self._classifier, self._weight = classifier.eval().requires_grad_(False), weight
        layers = [module for module in classifier.network.modules() if isinstance(module, nn.Conv2d)]
        if not layers:
            raise ValueError(f"{classifier.name} has no convolutions: it has no features with places to compare")
        count = min(DEPTHS, len(layers))
        self._layers = [layers[(place + 1) * len(layers) // count - 1] for place in range(count)]

    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        """The weighted distance of images and others, both (N, C, H, W) in about [-1, 1]; a scalar."""
        with torch.no_grad():
            of_others = self._features(others)
        of_images = self._features(images)
        distances = [(a - b).square().sum(1).mean() for a, b in zip(of_images, of_others, strict=True)]
        return self._weight * torch.stack(distances).mean()

    def _features(self, images: Tensor) -> list[Tensor]:
        features: list[Tensor] = []

        def keep(_: nn.Module, __: Any, output: Tensor) -> None:
            features.append(nn.functional.normalize(output.float(), dim=1))

        handles = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            self._classifier(images)
        finally:
            for handle in handles:
                handle.remove()
        return features
