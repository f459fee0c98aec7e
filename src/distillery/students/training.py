"""Training and testing of one network on one set of images, by a protocol."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.progress import Progress
from distillery.resume import Resume, pack, unpack
from distillery.streams import Key, stream
from distillery.students import augment
from distillery.students.networks import Classifier
from distillery.students.settings import Protocol


def train_network(
    classifier: Classifier,
    pixels: Tensor,
    labels: Tensor,
    protocol: Protocol,
    *,
    key: Key,
    device: torch.device,
    resume: Resume | None = None,
    validate: Callable[[Classifier], float] | None = None,
    what: str = "train_network",
) -> list[tuple[int, float]]:
    """Train in place to the last epoch.

    Args:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64.
        key: of the stream that order and augmentation are drawn from.
        validate: looks at the network every `validate_every` epochs and after the last one.
        resume: left in place at the end with the finished state; its owner calls `finish` when the outputs stand.

    Returns:
        (epoch, what `validate` gave) for each look.
    """
    classifier.to(device).requires_grad_(True)
    pixels, labels = pixels.to(device), labels.to(device)
    optimizer = _optimizer(classifier, protocol)
    history: list[tuple[int, float]] = []
    start = 0
    if resume and (found := resume.restore()):
        unpack(found[0], {"network": classifier}, {"optimizer": optimizer})
        start, history = found[1]["epoch"], [(epoch, value) for epoch, value in found[1]["history"]]
    with Progress(what, protocol.epochs, "epoch", start) as progress:
        for epoch in range(start, protocol.epochs):
            for group in optimizer.param_groups:
                group["lr"] = protocol.learning_rate * schedule_factor(protocol, epoch)
            _train_epoch(classifier, optimizer, pixels, labels, protocol, stream(*key, "epoch", epoch))
            done = epoch + 1
            if validate and (done % protocol.validate_every == 0 or done == protocol.epochs):
                history.append((done, validate(classifier)))
            progress.advance()
            if resume:
                resume.checkpoint(
                    lambda at=done: (  # type: ignore[misc]
                        pack({"network": classifier}, {"optimizer": optimizer}),
                        {"epoch": at, "history": history},
                    ),
                    force=done == protocol.epochs,
                )
    classifier.eval().requires_grad_(False)
    return history


def _train_epoch(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    pixels: Tensor,
    labels: Tensor,
    protocol: Protocol,
    draws: torch.Generator,
) -> None:
    classifier.train()
    order = torch.randperm(len(pixels), generator=draws).to(pixels.device)
    batches = list(order.split(protocol.batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:  # batch norm has no variance of a single image
        batches[-2:] = [torch.cat(batches[-2:])]
    for batch in batches:
        images, targets = to_unit(pixels[batch]), labels[batch]
        if protocol.shift:
            images = augment.shift(images, protocol.shift, draws)
        if protocol.flip:
            images = augment.flip(images, draws)
        mixed = torch.rand((), generator=draws).item() < protocol.cutmix
        partner, share = None, 1.0
        if mixed:
            images, partner, share = augment.cutmix(images, draws)
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda):
            logits = classifier(images)
        loss = F.cross_entropy(logits.float(), targets)
        if partner is not None:
            loss = share * loss + (1 - share) * F.cross_entropy(logits.float(), targets[partner])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def schedule_factor(protocol: Protocol, epoch: int) -> float:
    """What the learning rate is multiplied by during an epoch, counted from 0."""
    if protocol.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / protocol.epochs))
    if protocol.schedule == "step":
        drops = (epoch >= 2 * protocol.epochs // 3) + (epoch >= 5 * protocol.epochs // 6)
        return float(0.2**drops)
    return 1.0


def _optimizer(classifier: Classifier, protocol: Protocol) -> torch.optim.Optimizer:
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(
            classifier.parameters(), protocol.learning_rate, weight_decay=protocol.weight_decay, fused=True
        )
    return torch.optim.SGD(
        classifier.parameters(),
        protocol.learning_rate,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        fused=True,
    )


@torch.no_grad()
def logits_of(classifier: Classifier, pixels: Tensor, batch_size: int = 512) -> Tensor:
    """Logits (N, classes) in fp32 of stored images (N, C, H, W) uint8, without augmentation, in eval mode."""
    training = classifier.training
    classifier.eval()
    device = next(classifier.parameters()).device
    logits = torch.cat([classifier(to_unit(batch.to(device))).float() for batch in pixels.split(batch_size)])
    classifier.train(training)
    return logits


def accuracy(classifier: Classifier, pixels: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent on stored images."""
    right = logits_of(classifier, pixels).argmax(1).cpu() == labels.cpu()
    return 100 * right.double().mean().item()
