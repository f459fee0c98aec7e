"""Image tables as tensors, and the step between bytes and the range that networks see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distillery.artifacts import damaged, read_images


def load_pixels(path: Path, made_by: str = "ingest") -> tuple[Tensor, Tensor, list[str], list[str]]:
    """All images of a table, decoded.

    Args:
        path: an image table.
        made_by: the stage that makes it, for the message when it is damaged.

    Returns:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64, positions in the class names.
        classes: class names.
        paths: a stable id of each image.

    Raises:
        DamagedArtifact: not a table of images of one size.
    """
    images = read_images(path, made_by)
    try:
        pixels = images.pixels()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises a SyntaxError for a broken PNG
        raise damaged(path, made_by, error) from error
    return torch.from_numpy(pixels), torch.from_numpy(np.array(images.labels)), images.classes, images.paths


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes (uint8, any shape) as fp32 in [-1, 1], 0 to -1 and 255 to 1."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] (any shape, any float type) as uint8: what lies beyond is clamped, halves are rounded up."""
    return ((images.to(torch.float32).clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)
