"""The real images that ours are compared with, and batches of a class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distillery.data.channels import Known
from distillery.data.pixels import load_pixels
from distillery.data.whitening import Whitening, opened_whitening
from distillery.errors import BadInput
from distillery.students.augment import mean_of_svhn
from distillery.students.networks import Domain


class RealImages:
    """Real images on the device, as bytes.

    Attributes:
        pixels: (N, channels, H, W) uint8.
        labels: (N,) int64, positions in `classes`.
        domain: the one mean, standard deviation and whitening that real images and ours are seen with.
        paths: a stable id of each.
    """

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        paths: Sequence[str],
        device: torch.device,
        *,
        normalization: Known = "imagenet",
        whitening: Whitening | None = None,
        svhn_mean: bool = False,
    ) -> None:
        self.normalization = normalization
        self.pixels, self.labels = pixels.to(device), labels
        self.classes, self.paths = list(classes), list(paths)
        whitening = None if whitening is None else whitening.to(device)
        self.domain = Domain.named(normalization, pixels.shape[-1], pixels.shape[1], whitening)
        self.mean, self.std = self.domain.statistics(device)
        self._mean_of_ours = mean_of_svhn(self.mean) if svhn_mean else self.mean
        self._rows = [(labels == label).nonzero()[:, 0] for label in range(len(self.classes))]

    @classmethod
    def load(
        cls,
        path: Path,
        device: torch.device,
        *,
        normalization: Known = "imagenet",
        whitening: Path | None = None,
        svhn_mean: bool = False,
    ) -> RealImages:
        """The images of a table.

        Args:
            whitening: a file of `fit_whitening`, for networks that see images whitened.
            svhn_mean: ours are standardised with the mean of SVHN, as in the public code of LD3M.
        """
        return cls(
            *load_pixels(path),
            device,
            normalization=normalization,
            whitening=opened_whitening(whitening, device),
            svhn_mean=svhn_mean,
        )

    @property
    def view(self) -> dict[str, str]:
        """How networks see real images, in words that two runs can compare."""
        whitening = self.domain.whitening
        return {"normalization": self.normalization, "whitening": "none" if whitening is None else whitening.digest}

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
        """Real images in [0, 1] as networks see them: standardised, and whitened where that is asked for."""
        return self._seen(images, self.mean)

    def ours(self, images: Tensor) -> Tensor:
        """Our images in [0, 1] as networks see them: as the real ones, unless they have a mean of their own."""
        return self._seen(images, self._mean_of_ours)

    def _seen(self, images: Tensor, mean: Tensor) -> Tensor:
        seen = (images - mean) / self.std
        return seen if self.domain.whitening is None else self.domain.whitening(seen)

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
