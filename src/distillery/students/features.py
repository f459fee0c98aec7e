"""What a network sees in images before it decides: the input of its last linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distillery.data.pixels import to_unit
from distillery.data.reading import ImageTable, batches_of
from distillery.progress import count_images
from distillery.storage.resume import Resume
from distillery.students.networks import Classifier


@torch.no_grad()
def features_of(
    classifier: Classifier, images: Tensor | ImageTable, batch_size: int = 256, resume: Resume | None = None
) -> Tensor:
    """The input of the last linear layer, after pooling and flattening, without augmentation, in eval mode.

    Args:
        classifier: on any device; its mode and its weights are left as they were.
        images: (N, C, H, W) uint8, as stored, or a table that may be larger than the memory.
        batch_size: images per forward pass; the features do not depend on it beyond rounding.
        resume: left in place at the end with the finished state; its owner calls `finish` when the outputs stand.

    Returns:
        (N, F) fp32 on the CPU. 2,048 features of `convnet5` at 128 px are the embedding of distribution matching
        (arXiv 2110.04181).

    Raises:
        ValueError: the network does not end in one linear layer that gives the logits.
    """
    features, first = list[Tensor](), 0
    if resume is not None and (state := resume.restore()):
        features, first = [state[0]["features"]], int(state[1]["images"])
    count_images(len(images) - first)

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        features.append(inputs[0].float().cpu())

    device = next(classifier.parameters()).device
    training = classifier.training
    classifier.eval()
    handle = last_linear(classifier).register_forward_pre_hook(keep)
    try:
        with torch.autocast(device.type, enabled=False):
            for batch in batches_of(images, batch_size, first):
                classifier(to_unit(batch.to(device)))
                first += len(batch)
                if resume is not None:
                    resume.checkpoint(
                        lambda done=first: ({"features": torch.cat(features)}, {"images": done})  # type: ignore[misc]
                    )
    finally:
        handle.remove()
        classifier.train(training)
    return torch.cat(features)


def last_linear(classifier: Classifier) -> nn.Linear:
    """The linear layer that gives the logits: logits = last_linear(features).

    Raises:
        ValueError: the network does not end in one such layer.
    """
    network: Any = classifier.network
    if hasattr(network, "get_classifier"):  # timm's word for it
        head = network.get_classifier()
    else:
        head = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    if not isinstance(head, nn.Linear) or head.out_features != len(classifier.classes):
        raise ValueError(f"{classifier.name} does not end in one linear layer: it has no features to compare")
    return head
