"""RDED: the crops of real images that a network finds easiest, several of them in one image (arXiv 2312.03526)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import room_for, scaled
from distillery.data.reading import ImageTable
from distillery.devices import bound_cores
from distillery.errors import BadInput, damaged
from distillery.progress import count_images
from distillery.selection.random import random_order
from distillery.storage.images import ImageSet, decode_image, encode_png
from distillery.storage.spool import Spooled
from distillery.streams import Key, stream
from distillery.students.augment import draw_crops, resized_crop
from distillery.students.networks import Classifier

SQUARE = (1.0, 1.0)
"""Range of the aspect ratio of a crop, as in the public code."""


def rded_images(
    table: ImageTable,
    ipc: int,
    classifier: Classifier,
    *,
    seed: int,
    key: Key,
    factor: int = 2,
    crops: int = 5,
    images_per_class: int = 300,
    scale: tuple[float, float] = (0.08, 1.0),
    batch_size: int = 64,
) -> ImageSet:
    """Stitched images, `ipc` of each class, in the order slot, class.

    The easiest of some random crops of an image is its candidate. The easiest candidates of a class are stitched,
    `factor` x `factor` in one image. Image i of a class holds the candidates of ranks i, ipc + i, 2 ipc + i, ... in
    reading order, as in the public code (LINs-lab/RDED): a smaller set is not the beginning of a larger one. Defaults
    are those of its scripts. The public code stores JPEG; these images are PNG.

    Args:
        table: the training images, square and of one size; they may be larger than the memory.
        classifier: the network that finds crops easy or hard, in eval mode, on any device.
        seed: of the random choice of the images that are considered, as in `random_order`.
        key: of the streams that crops are drawn from, to which the class and the id of an image are added.
        factor: crops in a row and in a column of an image.
        crops: per image that is considered.
        images_per_class: that are considered at most.
        scale: least and largest share of the area of an image that a crop has.
        batch_size: images whose crops are scored at once.

    Returns:
        PNG images of the size of the table's, with the columns `slot` and `cross_entropy` (one value per crop).

    Raises:
        BadInput: a class has too few images for these sets, or the network has diverged.
        DamagedArtifact: an image cannot be read.
    """
    images, needed = ImageSet([], table.labels, table.classes, table.paths()), ipc * factor**2
    labels = range(len(table.classes))
    rows = np.sort(np.concatenate([considered(images, label, images_per_class, needed, seed) for label in labels]))
    keys = [(*key, table.classes[table.labels[row]], images.paths[row]) for row in rows]
    side = table.shape[-1]
    drawn = torch.stack([draw_crops(crops, side, side, scale, SQUARE, stream(*image)) for image in keys])
    losses = crop_losses(table, rows, drawn, classifier, factor, batch_size)
    best = losses.argmin(1)  # the first of equal ones
    boxes, lowest = drawn[torch.arange(len(rows)), torch.from_numpy(best)], losses.min(1)
    ranked = np.empty((ipc, len(labels), factor**2), dtype=np.int64)  # positions in `rows`
    for label in labels:
        candidates = np.flatnonzero(table.labels[rows] == label).tolist()
        easiest = sorted(candidates, key=lambda position: (lowest[position], images.paths[rows[position]]))[:needed]
        ranked[:, label] = np.array(easiest).reshape(factor**2, ipc).T
    places = ranked.reshape(-1, factor**2)
    pixels = stitched(table, rows[places], boxes[torch.from_numpy(places)], factor)
    return ImageSet(
        Spooled(encode_png(image.numpy()) for image in pixels),
        np.tile(np.arange(len(labels)), ipc),
        table.classes,
        [f"{name}/{slot:05d}.png" for slot in range(ipc) for name in table.classes],
        {"slot": np.repeat(np.arange(ipc), len(labels)), "cross_entropy": lowest[places].astype(np.float32)},
    )


def considered(images: ImageSet, label: int, most: int, needed: int, seed: int) -> list[int]:
    """The rows of one class whose crops are candidates: at most so many, drawn at random.

    Raises:
        BadInput: they are fewer than the crops that are needed; each crop comes from an image of its own.
    """
    count = min(int((images.labels == label).sum()), most)
    if count < needed:
        raise BadInput(
            f"ipc: {needed} crops of class {images.classes[label]!r} are needed, each of an image of its own, and "
            f"{count} images are considered; lower ipc or factor, or raise images_per_class"
        )
    return random_order(images, label, count, seed)


@torch.no_grad()
def crop_losses(
    table: ImageTable, rows: np.ndarray, boxes: Tensor, classifier: Classifier, factor: int, batch_size: int = 64
) -> np.ndarray:
    """The cross-entropy of the true label of every crop: (N, crops) float32; rows (N,) ascend.

    A crop is resized to 1 / `factor` of the side of the images and shown in the middle of an image of the mean colour
    of the network's domain. Boxes are (N, crops, 4): top, left, height, width.

    Raises:
        BadInput: a loss is not finite: the network has diverged.
    """
    device = next(classifier.parameters()).device
    mean, std = classifier.domain.statistics(device)
    side, crops, losses = table.shape[-1] // factor, boxes.shape[1], []
    before = (table.shape[-1] - side) // 2
    after = table.shape[-1] - side - before
    for start, pixels in _decoded(table, rows, batch_size):
        count_images(len(pixels) * crops)
        repeated = pixels.to(device).float().repeat_interleave(crops, 0) / 255
        cropped = resized_crop(repeated, boxes[start : start + len(pixels)].flatten(0, 1).to(device), side)
        shown = scaled(F.pad((cropped - mean) / std, (before, after) * 2), classifier.domain.size)
        labels = torch.from_numpy(table.labels[rows[start : start + len(pixels)]]).to(device)
        with torch.autocast(device.type, enabled=False):
            loss = F.cross_entropy(classifier.network(shown).float(), labels.repeat_interleave(crops), reduction="none")
        losses.append(loss.view(-1, crops).cpu())
    scores = torch.cat(losses).numpy()
    if not np.isfinite(scores).all():
        raise BadInput("the network that scores the crops has diverged; train it again with a lower learning_rate")
    return scores


def stitched(table: ImageTable, rows: np.ndarray, boxes: Tensor, factor: int) -> Tensor:
    """Images of `factor` x `factor` crops, in reading order: (N, C, H, W) uint8, in memory or in a file.

    Where the factor does not divide a side, the first tiles are one pixel larger than the last ones.

    Args:
        rows: (N, factor**2), the image that each crop is of; none stands there twice.
        boxes: (N, factor**2, 4) top, left, height, width.
    """
    side = table.shape[-1]
    pixels = room_for((len(rows), *table.shape))
    starts = [part * (side // factor) + min(part, side % factor) for part in range(factor + 1)]
    edges = [slice(start, stop) for start, stop in pairwise(starts)]
    order, flat = np.argsort(rows, axis=None), boxes.flatten(0, 1)
    for start, images in _decoded(table, rows.reshape(-1)[order], 64):
        chosen = order[start : start + len(images)]
        cropped = resized_crop(images.float(), flat[torch.from_numpy(chosen)], side // factor)
        for crop, position in zip(cropped, chosen.tolist(), strict=True):
            image, tile = divmod(position, factor**2)
            down, across = edges[tile // factor], edges[tile % factor]
            size = (down.stop - down.start, across.stop - across.start)
            tiled = F.interpolate(crop[None], size)[0]  # the nearest pixel, as in the public code
            pixels[image, :, down, across] = tiled.round().clamp(0, 255).to(torch.uint8)
    return pixels


def _decoded(table: ImageTable, rows: np.ndarray, size: int) -> Iterator[tuple[int, Tensor]]:
    """The images of ascending rows, so many at a time: position of the first one, and (n, C, H, W) uint8."""
    wanted = set(rows.tolist())
    contents = (content for row, content in enumerate(table.encoded()) if row in wanted)
    with ThreadPoolExecutor(bound_cores()) as pool:
        for start in range(0, len(rows), size):
            try:
                images = np.stack(list(pool.map(decode_image, islice(contents, min(size, len(rows) - start)))))
            except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a broken file
                raise damaged(table.path, "ingest", error) from error
            yield start, torch.from_numpy(images)
