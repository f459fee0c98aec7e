"""Augmentation as batched tensor operations with per-image parameters, drawn on the CPU from a stream."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def shift(images: Tensor, most: int, draws: torch.Generator) -> Tensor:
    """Move each image by up to `most` whole pixels per axis; what enters is the lowest value, -1 (black).

    Args:
        images: (N, C, H, W) in [-1, 1].
    """
    count, _, height, width = images.shape
    offsets = torch.randint(2 * most + 1, (2, count, 1), generator=draws).to(images.device)
    padded = F.pad(images, (most, most, most, most), value=-1.0)
    rows = (offsets[0] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (offsets[1] + torch.arange(width, device=images.device))[:, None, None, :]
    index = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[index, channel, rows, columns]


def flip(images: Tensor, draws: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability one half."""
    mirrored = (torch.rand(len(images), generator=draws) < 0.5).to(images.device)
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def cutmix(images: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """CutMix (arXiv 1905.04899) with one box and one permutation for the batch.

    lambda ~ Beta(1, 1), which is uniform; box sides int(side * sqrt(1 - lambda)); the centre is uniform on the pixels;
    the box is clipped to the image and the share recomputed from what is left of it.

    Returns:
        The images, the index of each image's partner (N,), and the share of the image itself.
    """
    height, width = images.shape[-2:]
    partner = torch.randperm(len(images), generator=draws)
    ratio = (1 - torch.rand((), generator=draws).item()) ** 0.5
    tall, wide = int(height * ratio), int(width * ratio)
    y = int(torch.randint(height, (), generator=draws))
    x = int(torch.randint(width, (), generator=draws))
    top, bottom = max(y - tall // 2, 0), min(y + tall // 2, height)
    left, right = max(x - wide // 2, 0), min(x + wide // 2, width)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    return mixed, partner.to(images.device), 1 - (bottom - top) * (right - left) / (height * width)
