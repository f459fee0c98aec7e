"""ZCA whitening: a fixed linear map of whole standardised images, fitted on the training images.

MTT (arXiv 2203.11932) trains and tests networks on images whose values are decorrelated: with the mean m and the
covariance U diag(s) U^T of the training images, whitened = U diag(1 / sqrt(s + eps)) U^T (image - m). The map is
symmetric and has an inverse, so that images are stored and shown as they are, and only networks see them whitened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distillery.errors import BadInput, damaged
from distillery.provenance import Provenance
from distillery.storage.tensors import read_tensors, write_tensors

MADE_BY = "fit_whitening"


@dataclass(frozen=True)
class Whitening:
    """The map and its inverse, for images of D = C H W values.

    Attributes:
        mean: (D,) fp32.
        matrix: (D, D) fp32, symmetric.
        inverse: (D, D) fp32, symmetric.
    """

    mean: Tensor
    matrix: Tensor
    inverse: Tensor

    @property
    def digest(self) -> str:
        """A short name of the map."""
        return hashlib.sha256(self.matrix.cpu().numpy().tobytes() + self.mean.cpu().numpy().tobytes()).hexdigest()[:16]

    def to(self, device: torch.device) -> Whitening:
        """The same on a device."""
        return Whitening(self.mean.to(device), self.matrix.to(device), self.inverse.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """Standardised images (N, C, H, W) whitened, in fp32. Differentiable."""
        return self._mapped(self.matrix, images.flatten(1).float() - self.mean).view(images.shape)

    def undone(self, whitened: Tensor) -> Tensor:
        """Whitened images (N, C, H, W) standardised, in fp32. Differentiable."""
        return (self._mapped(self.inverse, whitened.flatten(1).float()) + self.mean).view(whitened.shape)

    def vjp_of_undone(self, gradient: Tensor) -> Tensor:
        """The gradient at the result of `undone`, (N, C, H, W), to that at its argument: the matrix is symmetric."""
        return self._mapped(self.inverse, gradient.flatten(1).float()).view(gradient.shape)

    def _mapped(self, matrix: Tensor, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):  # bfloat16 has three digits, and eps magnifies
            return values @ matrix

    def save(self, path: Path, provenance: Provenance, **about: object) -> None:
        """Write the map, with what describes it."""
        tensors = {"mean": self.mean, "matrix": self.matrix, "inverse": self.inverse}
        write_tensors(path, tensors, provenance, **about)

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Whitening:
        """Read what `save` wrote.

        Raises:
            DamagedArtifact: not such a file.
        """
        tensors = read_tensors(path, MADE_BY)[0]
        try:
            return cls(tensors["mean"], tensors["matrix"], tensors["inverse"]).to(device)
        except KeyError as error:
            raise damaged(path, MADE_BY, error) from error


def opened_whitening(path: Path | None, device: torch.device) -> Whitening | None:
    """The map of a file; None where there is no file, for networks that see images as they are."""
    return None if path is None else Whitening.load(path, device)


def fit_whitening(batches: Iterable[Tensor], eps: float) -> Whitening:
    """The whitening of a set of images, in one pass, in fp64 on the CPU.

    Args:
        batches: standardised images (n, C, H, W) of a float type; all of them are used.
        eps: added to the eigenvalues of the covariance, whose divisor is the number of images less one.

    Raises:
        BadInput: fewer than two images, or a value that is not finite.
    """
    count, total, products = 0, torch.zeros(0), torch.zeros(0)
    for batch in batches:
        rows = batch.flatten(1).double()
        if not count:
            total, products = rows.new_zeros(rows.shape[1]), rows.new_zeros(rows.shape[1], rows.shape[1])
        count += len(rows)
        total += rows.sum(0)
        products.addmm_(rows.T, rows)
    if count < 2:
        raise BadInput(f"dataset.zca: {count} training images have no covariance; two or more are needed")
    mean = total / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
    if not covariance.isfinite().all():
        raise BadInput("dataset.zca: the training images have values that are not finite")
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values.clamp(min=0) + eps).sqrt()  # rounding leaves eigenvalues of zero slightly below it
    matrices = [(vectors * factor) @ vectors.T for factor in (1 / scale, scale)]
    matrix, inverse = ((one + one.T) / 2 for one in matrices)
    return Whitening(mean.float(), matrix.float(), inverse.float())
