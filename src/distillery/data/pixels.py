"""Image tables as tensors, and the step between bytes and the range that networks see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.reading import ImageTable
from distillery.errors import BadInput, damaged
from distillery.storage.images import ImageSet, decode_image
from distillery.storage.spool import mapped_bytes

MOST_IN_MEMORY = 2**30
"""Bytes of a tensor that are kept in memory; a larger one lies in a file, of which the system keeps what is in use."""


def room_for(shape: Sequence[int], dtype: torch.dtype = torch.uint8) -> Tensor:
    """A tensor on the CPU to be filled: of zeros in memory, or, if it is larger than `MOST_IN_MEMORY`, in a file.

    The file has no name and lies in the folder of temporary files (`TMPDIR`); it goes with the tensor.

    Raises:
        BadInput: that folder has no room for it.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= MOST_IN_MEMORY:
        return torch.zeros(tuple(shape), dtype=dtype)
    return torch.from_numpy(mapped_bytes(size)).view(dtype).view(*shape)


def load_pixels(path: Path, made_by: str = "ingest") -> tuple[Tensor, Tensor, list[str], list[str]]:
    """All images of a table, decoded.

    Args:
        path: an image table.
        made_by: the stage that makes it, for the message when it is damaged.

    Returns:
        pixels: (N, C, H, W) uint8, in memory or, many of them, in a file (`room_for`).
        labels: (N,) int64, positions in the class names.
        classes: class names.
        paths: a stable id of each image.

    Raises:
        DamagedArtifact: not a table of images of one size.
    """
    table = ImageTable(path, made_by)
    if not len(table):
        raise damaged(path, made_by, "it holds no images")
    pixels = room_for((len(table), *table.shape))
    row = 0
    for batch, _ in table.batches(256):
        if batch.shape[1:] != pixels.shape[1:]:
            raise damaged(path, made_by, f"images of {tuple(pixels.shape[1:])} and of {tuple(batch.shape[1:])}")
        pixels[row : row + len(batch)] = batch
        row += len(batch)
    return pixels, torch.from_numpy(table.labels), table.classes, table.paths()


def decoded(images: ImageSet) -> Tensor:
    """The images of a set: (N, C, H, W) uint8, in memory or, many of them, in a file (`room_for`).

    Raises:
        BadInput: one is damaged.
        ValueError: the images differ in size or colour.
    """
    made: Tensor | None = None
    for row, content in enumerate(images.images):
        try:
            image = torch.from_numpy(decode_image(content))
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a broken file
            name = images.paths[row]
            raise BadInput(f"image {name}: damaged ({error}); delete the table that holds it, and run again") from error
        if made is None:
            made = room_for((len(images), *image.shape))
        if image.shape != made.shape[1:]:
            raise ValueError(f"images of {tuple(made.shape[1:])} and of {tuple(image.shape)}")
        made[row] = image
    if made is None:
        raise ValueError("no images")
    return made


def to_unit(pixels: Tensor) -> Tensor:
    """Bytes (uint8, any shape) as fp32 in [-1, 1], 0 to -1 and 255 to 1."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] (any shape, any float type) as uint8: what lies beyond is clamped, halves are rounded up."""
    return ((images.to(torch.float32).clamp(-1, 1) + 1) * 127.5 + 0.5).floor().to(torch.uint8)


def scaled(images: Tensor, side: int) -> Tensor:
    """Images (N, C, H, W) of a float type to (N, C, side, side), by the antialiased triangle (bilinear) of Pillow.

    On a GPU the gradient of torch's own kernel adds up in any order; there products with matrices take its place.
    """
    if images.shape[-2:] == (side, side):
        return images
    if images.is_cuda and images.requires_grad:
        return scaled_by_products(images, side)
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def scaled_by_products(images: Tensor, side: int) -> Tensor:
    """What `scaled` gives, as a matrix from the left and one from the right: the same filter to rounding."""
    tall, wide = images.shape[-2:]
    unit = {length: torch.eye(length, device=images.device, dtype=images.dtype) for length in (tall, wide)}
    down, across = (
        F.interpolate(unit[length][None, None], (side, length), mode="bilinear", antialias=True)[0, 0]
        for length in (tall, wide)
    )
    with torch.autocast(images.device.type, enabled=False):
        return down @ images @ across.T
