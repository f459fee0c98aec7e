"""Batches of an epoch, for one network or several at once: order, augmentation and mixing by the stream of each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillery.data.whitening import Whitening
from distillery.streams import Key, stream
from distillery.students import augment
from distillery.students.settings import Recipe

MOST_OF_CARD = 0.5
"""Of a card's free memory that the stored images may take; networks and activations need the rest."""


@dataclass
class Step:
    """One batch of each network: images (S, N, C, H, W), labels (S, N) or probabilities (S, N, classes), CutMix
    partners' labels and own shares."""

    places: slice
    images: Tensor
    labels: Tensor
    partner_labels: Tensor
    share: Tensor


def batches_of(
    stored: Tensor,
    labels: Tensor,
    recipe: Recipe,
    keys: Sequence[Key],
    epoch: int,
    mean: Tensor,
    std: Tensor,
    whitening: Whitening | None = None,
) -> Iterator[Step]:
    """The batches of an epoch, for each network those of its key; the last arguments are those of `augment`."""
    device, count, (height, width) = mean.device, len(stored), stored.shape[-2:]
    side = recipe.size or width
    streams = [stream(*key, "epoch", epoch) for key in keys]
    tables = [augment.draw_epoch(recipe, count, height, width, draws) for draws in streams]
    tables_at_once = {name: torch.stack([table[name] for table in tables]).to(device) for name in tables[0]}
    order = tables_at_once.pop("order")
    size = min(recipe.batch_size, count)
    edges = [*range(0, count, size), count]
    if len(edges) > 2 and edges[-1] - edges[-2] == 1:  # batch norm has no variance of a single image
        del edges[-2]
    for first, last in itertools.pairwise(edges):
        chosen = order[:, first:last]
        batches = [augment.draw_batch(recipe, last - first, side, draws) for draws in streams]
        rows = {name: table[:, first:last] for name, table in tables_at_once.items()}
        images = stored[chosen.to(stored.device)].to(device, non_blocking=True)
        yield _batch(slice(first, last), images, labels[chosen], rows, batches, recipe, mean, std, whitening)


def placed(stored: Tensor, device: torch.device) -> Tensor:
    """Images on the device; or where they are, if they would take more than `MOST_OF_CARD` of what is free there.

    Their batches are moved one at a time then, which is slower and gives the same.
    """
    if device.type == "cuda" and stored.nbytes > MOST_OF_CARD * torch.cuda.mem_get_info(device)[0]:
        return stored
    return stored.to(device)


def _batch(
    places: slice,
    images: Tensor,
    labels: Tensor,
    rows: augment.Tables,
    batches: Sequence[augment.Tables],
    recipe: Recipe,
    mean: Tensor,
    std: Tensor,
    whitening: Whitening | None,
) -> Step:
    networks, count = labels.shape[:2]
    if recipe.dsa:  # its operation is drawn per batch: networks differ in it
        of_each = [{name: row[i] for name, row in rows.items()} for i in range(networks)]
        seen = torch.cat(
            [augment.augment(images[i], of_each[i], batches[i], recipe, mean, std, whitening) for i in range(networks)]
        )
    else:
        flat = {name: row.flatten(0, 1) for name, row in rows.items()}
        seen = augment.augment(images.flatten(0, 1), flat, {}, recipe, mean, std, whitening)
    partner_labels, share = labels, torch.ones(networks, device=labels.device)
    if recipe.cutmix:
        mixed = torch.stack([batch["mixed"] for batch in batches]).to(labels.device)
        partner = torch.stack([batch["partner"] for batch in batches]).to(labels.device)
        box = torch.stack([batch["box"] for batch in batches]).to(labels.device) * mixed[:, None]
        offsets = count * torch.arange(networks, device=labels.device)[:, None]
        seen, own = augment.cutmix(seen, (partner + offsets).flatten(), box.repeat_interleave(count, 0))
        partner_of = partner if labels.ndim == 2 else partner[..., None].expand_as(labels)
        partner_labels, share = labels.gather(1, partner_of), own.view(networks, count)[:, 0]
    return Step(places, seen.unflatten(0, (networks, count)), labels, partner_labels, share)


def augmented(pixels: Tensor, recipe: Recipe, key: Key, epoch: int, mean: Tensor, std: Tensor) -> Iterator[Tensor]:
    """The batches (N, C, H, W) that a network of this key sees in an epoch, of stored images (N, C, H, W) uint8."""
    stored = augment.resize(pixels, recipe.size) if recipe.size and recipe.resize_first else pixels
    nothing = torch.zeros(len(stored), dtype=torch.long, device=mean.device)
    for step in batches_of(stored, nothing, recipe, [key], epoch, mean, std):
        yield step.images[0]
