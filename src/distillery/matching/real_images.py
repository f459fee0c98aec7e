"""The real images that ours are compared with: which of them are held out, and batches of a class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillery.data.pixels import load_pixels
from distillery.errors import BadInput
from distillery.matching.checks import held_out_of
from distillery.ordering import seeded_order
from distillery.students.networks import Domain


def held_out(labels: np.ndarray, classes: Sequence[str], paths: Sequence[str], share: float, seed: int) -> np.ndarray:
    """Which training images are held out, (N,) bool: a share of each class, one at least, drawn by seed, class and id.

    Raises:
        BadInput: a class has one image.
    """
    held = np.zeros(len(labels), dtype=bool)
    if share == 0:
        return held
    for label, name in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        count = held_out_of(len(rows), share)
        if count < 1:
            raise BadInput(
                f"class {name!r} has {len(rows)} training images, and one is to be held out to choose a snapshot; give "
                "it more, or set matching.choose: last"
            )
        order = seeded_order([paths[row] for row in rows.tolist()], seed, "held out", name)
        held[rows[order[:count]]] = True
    return held


class RealImages:
    """Real images on the device, as bytes.

    Attributes:
        pixels: (N, channels, H, W) uint8.
        labels: (N,) int64, positions in `classes`.
        domain: the one mean and standard deviation that real images and ours are seen with.
        paths: a stable id of each.
    """

    def __init__(
        self, pixels: Tensor, labels: Tensor, classes: Sequence[str], paths: Sequence[str], device: torch.device
    ) -> None:
        self.pixels, self.labels = pixels.to(device), labels
        self.classes, self.paths = list(classes), list(paths)
        self.domain = Domain.imagenet(pixels.shape[-1], pixels.shape[1])
        self.mean, self.std = self.domain.statistics(device)
        self._rows = [(labels == label).nonzero()[:, 0] for label in range(len(self.classes))]

    @classmethod
    def load(cls, path: Path, share: float, seed: int, device: torch.device, *, kept: bool = True) -> RealImages:
        """The training images without the held-out share of each class; with `kept` False the held-out ones."""
        pixels, labels, classes, paths = load_pixels(path)
        rows = torch.from_numpy(np.flatnonzero(held_out(labels.numpy(), classes, paths, share, seed) != kept))
        return cls(pixels[rows], labels[rows], classes, [paths[row] for row in rows.tolist()], device)

    @property
    def digest(self) -> str:
        """A short name of these images with their labels, in their order."""
        digest = hashlib.sha256(json.dumps([self.classes, self.labels.tolist()]).encode())
        digest.update(self.pixels.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def of_class(self, label: int) -> Tensor:
        """Rows of one class, in the order of the ids."""
        return torch.tensor(sorted(self._rows[label].tolist(), key=lambda row: self.paths[row]), dtype=torch.int64)

    def draw(self, label: int, count: int, draws: torch.Generator) -> Tensor:
        """Different images of one class, standardised: (min(count, all), channels, H, W) fp32."""
        rows = self._rows[label]
        return self.seen(rows[torch.randperm(len(rows), generator=draws)[:count]])

    def seen(self, rows: Tensor) -> Tensor:
        """These images, standardised."""
        return self.standardised(self.pixels[rows].to(torch.float32) / 255)

    def standardised(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as networks see them."""
        return (images - self.mean) / self.std

    def first_images(self, label: int, ipc: int, draws: torch.Generator) -> Tensor:
        """Rows of one class to start from: `ipc` different ones.

        Raises:
            BadInput: the class has fewer.
        """
        rows = self.of_class(label)
        if len(rows) < ipc:
            raise BadInput(
                f"ipc: class {self.classes[label]!r} has {len(rows)} training images to start from, fewer than {ipc}; "
                "set init: gaussian (latents) or noise (pixels), or ask for fewer"
            )
        return rows[torch.randperm(len(rows), generator=draws)[:ipc]]
