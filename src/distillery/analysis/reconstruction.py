"""Reconstruction of real images by an autoencoder: PSNR, and accuracy of reference networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distillery.data.pixels import to_bytes, to_unit
from distillery.data.reading import ImageTable
from distillery.diffusion.autoencoder import Codec
from distillery.progress import Progress
from distillery.students.networks import Classifier


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """PSNR of images (N, C, H, W) uint8: (N,) in dB, 10 log10(255^2 / MSE); infinite for equal images."""
    error = (images.double() - others.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(255**2 / error)


@torch.no_grad()
def measure(
    table: ImageTable,
    encoder: Codec,
    decoder: Codec,
    references: Mapping[str, Classifier],
    *,
    batch_size: int,
    device: torch.device,
    what: str,
) -> list[dict[str, Any]]:
    """One row per reference, or one without: mean PSNR of the images after encoder (mean) and decoder, and accuracies.

    Reconstructions are rounded to bytes, as a generated image is.
    """
    ratios: list[Tensor] = []
    correct = {name: [0, 0] for name in references}
    with Progress(what, len(table), "image") as progress:
        for pixels, labels in table.batches(batch_size):
            stored = pixels.to(device)
            again = to_bytes(decoder.decode(encoder.encode(to_unit(stored))[0]))
            ratios.append(psnr(stored, again).cpu())
            for name, network in references.items():
                for place, images in enumerate((stored, again)):
                    correct[name][place] += int((network(to_unit(images)).argmax(1).cpu() == labels).sum())
            progress.advance(len(labels))
    mean = torch.cat(ratios).mean().item()
    if not references:
        return [{"psnr": mean, "reference": "", "accuracy": None, "accuracy_reconstructed": None}]
    return [
        {
            "psnr": mean,
            "reference": name,
            "accuracy": 100 * before / len(table),
            "accuracy_reconstructed": 100 * after / len(table),
        }
        for name, (before, after) in correct.items()
    ]
