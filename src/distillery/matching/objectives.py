"""Objectives that compare our images with the real ones: their interface, and the two objectives of fresh networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

from distillery.devices import plain_attention
from distillery.matching import dsa
from distillery.matching.networks import Comparing
from distillery.matching.real_images import RealImages
from distillery.streams import Key, stream

Metrics = dict[str, float]


class Objective(Protocol):
    """A loss of images, by its gradient."""

    updates: int
    """Steps of the images per iteration."""

    def gradient(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Metrics]:
        """The gradient at the images, and metrics for a log, `loss` among them.

        All that is random comes from streams keyed by the step, so that a step can be repeated.

        Args:
            images: (N, channels, H, W) in [0, 1].
            labels: (N,) int64, on the CPU.
            step: number of the update, from 0.
        """
        ...

    def learned(self) -> dict[str, float]:
        """What it has learned beside the images and belongs to them: `learning_rate`, or nothing."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The state that the next step depends on, beside the images."""
        ...

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Restore the tensors of `state_dict`."""
        ...


def gradient_distance(ours: Iterable[Tensor], real: Iterable[Tensor]) -> Tensor:
    """Sum over weights and output channels of 1 - cosine of two gradients, (): the distance of DC (arXiv 2006.05929).

    Weights with one dimension or three, biases and norms, are left out.
    """
    total: Tensor | None = None
    for our, their in zip(ours, real, strict=True):
        if our.ndim not in (2, 4):
            continue
        mine, theirs = our.flatten(1), their.flatten(1)
        lengths = mine.norm(dim=1) * theirs.norm(dim=1)
        distance = (1 - (mine * theirs).sum(1) / (lengths + 1e-6)).sum()
        total = distance if total is None else total + distance
    assert total is not None
    return total


def loss_gradient(network: nn.Module, images: Tensor, labels: Tensor, *, graph: bool = False) -> tuple[Tensor, ...]:
    """Gradient of the cross-entropy with respect to all parameters; with `graph` it can be differentiated again."""
    with plain_attention():
        loss = F.cross_entropy(network(images), labels)
    return grad(loss, list(network.parameters()), create_graph=graph)


def class_by_class(
    distance: Callable[[int, Tensor, Tensor], Tensor],
    real: RealImages,
    key: Key,
    images: Tensor,
    labels: Tensor,
    batch_real: int,
    augment: bool,
) -> tuple[Tensor, Metrics]:
    """The gradient at the images of a distance to real ones, summed over the classes, and its value as `loss`.

    Args:
        distance: (label, our images of the class, real images of the class) -> (); both are standardised and see the
            same augmentation.
        key: of the stream of each class, to which its name is added.
    """
    gradient, total = torch.zeros_like(images), 0.0
    for label in labels.unique().tolist():
        draws = stream(*key, real.classes[label])
        batch = real.draw(label, batch_real, draws)
        augmented = dsa.draw(draws) if augment else _as_is
        rows = (labels == label).nonzero()[:, 0].to(images.device)
        leaf = images[rows].detach().requires_grad_()
        loss = distance(label, augmented(real.ours(leaf)), augmented(batch))
        (gradient[rows],) = grad(loss, leaf)
        total += float(loss.detach())
    return gradient, {"loss": total}


@dataclass
class GradientMatching:
    """DC and DSA: the gradient of a network on our images of a class shall point where that of real ones does.

    With one update per network it is drawn anew for each. With more, it is trained on our images in between.

    Attributes:
        key: of the streams that networks, batches and augmentation are drawn from.
        outer: steps of the images on one network.
        inner: epochs that it is trained on the images between two of them.
        learning_rate: of that training, plain SGD in batches of `batch_train`.
    """

    real_images: RealImages
    networks: Comparing
    key: Key
    _: KW_ONLY
    batch_real: int = 256
    outer: int = 1
    inner: int = 1
    learning_rate: float = 0.01
    batch_train: int = 256
    augment: bool = True

    def __post_init__(self) -> None:
        self.updates = self.outer
        self._network: nn.Module | None = None

    def gradient(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Metrics]:
        """The gradient of the distances, summed over the classes."""
        network = self._network_of(images, labels, step)

        def distance(label: int, ours: Tensor, real: Tensor) -> Tensor:
            target = loss_gradient(network, real, _all(label, real))
            return gradient_distance(loss_gradient(network, ours, _all(label, ours), graph=True), target)

        options = (self.batch_real, self.augment)
        return class_by_class(distance, self.real_images, (*self.key, "class", step), images, labels, *options)

    def _network_of(self, images: Tensor, labels: Tensor, step: int) -> nn.Module:
        iteration, place = divmod(step, self.updates)
        if place == 0 or self._network is None:
            if place:
                raise ValueError(f"step {step} goes on with a network that is not there; restore the state first")
            self._network = self.networks.new((*self.key, "network", iteration))
        else:
            self._train(self._network, self.real_images.ours(images), labels.to(images.device), step)
        return self._network

    def _train(self, network: nn.Module, images: Tensor, labels: Tensor, step: int) -> None:
        parameters: list[Tensor] = list(network.parameters())
        for epoch in range(self.inner):
            draws = stream(*self.key, "train", step, epoch)
            for rows in torch.randperm(len(images), generator=draws).split(self.batch_train):
                seen = dsa.draw(draws, len(rows))(images[rows]) if self.augment else images[rows]
                gradients = loss_gradient(network, seen, labels[rows])
                with torch.no_grad():
                    torch._foreach_sub_(parameters, list(gradients), alpha=self.learning_rate)

    def learned(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        if self._network is None or self.updates == 1:
            return {}
        return {f"network/{name}": value.detach().clone() for name, value in self._network.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            self._network = self.networks.new((*self.key, "network", 0))
            for name, parameter in self._network.named_parameters():
                parameter.copy_(tensors[f"network/{name}"])


@dataclass
class DistributionMatching:
    """DM: the mean feature of our images of a class shall be that of real ones, in any network.

    Attributes:
        key: of the streams that networks, batches and augmentation are drawn from.
    """

    real_images: RealImages
    networks: Comparing
    key: Key
    _: KW_ONLY
    batch_real: int = 256
    augment: bool = True
    updates: int = field(default=1, init=False)

    def gradient(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Metrics]:
        """The gradient of the squared distances of mean features, summed over the classes."""
        embed = self.networks.embedding((*self.key, "network", step))

        def distance(label: int, ours: Tensor, real: Tensor) -> Tensor:
            with torch.no_grad():
                target = embed(real).mean(0)
            return (target - embed(ours).mean(0)).square().sum()

        options = (self.batch_real, self.augment)
        return class_by_class(distance, self.real_images, (*self.key, "class", step), images, labels, *options)

    def learned(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is remembered."""


def _as_is(images: Tensor) -> Tensor:
    return images


def _all(label: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), label, device=images.device)
