"""What our images are compared with the real ones by: one interface, and the two objectives of fresh networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

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
        """The gradient at the images, and what a log shows, `loss` among it.

        All that is random comes from streams keyed by the step, so that a step can be repeated.

        Args:
            images: (N, channels, H, W) in [0, 1].
            labels: (N,) int64, on the CPU.
            step: number of the update, from 0.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step depends on beside the images."""
        ...

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        ...


def gradient_distance(ours: Iterable[Tensor], real: Iterable[Tensor]) -> Tensor:
    """Sum over weights and output channels of 1 - cosine, (): the distance of DC (arXiv 2006.05929).

    Weights with one dimension or three, biases and norms, are left out.

    Args:
        ours, real: gradients of the parameters, in the same order.
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
    loss = F.cross_entropy(network(images), labels)
    return grad(loss, list(network.parameters()), create_graph=graph)


class GradientMatching:
    """DC and DSA: the gradient of a network on our images of a class shall point where that of real ones does.

    With one update per network it is drawn anew for each. With more, it is trained on our images in between.

    Attributes:
        updates: steps of the images on one network.
    """

    def __init__(
        self,
        real: RealImages,
        networks: Comparing,
        key: Key,
        *,
        batch_real: int = 256,
        outer: int = 1,
        inner: int = 1,
        learning_rate: float = 0.01,
        batch_train: int = 256,
        augment: bool = True,
    ) -> None:
        """
        Args:
            key: of the streams that networks, batches and augmentation are drawn from.
            outer: steps of the images on one network.
            inner: epochs that it is trained on the images between two of them.
            learning_rate: of that training, plain SGD in batches of `batch_train`.
        """
        self._real, self._networks, self._key = real, networks, key
        self._batch_real, self.updates, self._inner = batch_real, outer, inner
        self._rate, self._batch_train, self._augment = learning_rate, batch_train, augment
        self._network: nn.Module | None = None

    def gradient(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Metrics]:
        """The gradient of the distances, summed over the classes."""
        network = self._network_of(images, labels, step)
        gradient, total = torch.zeros_like(images), 0.0
        for label in labels.unique().tolist():
            draws = stream(*self._key, "class", step, self._real.classes[label])
            real = self._real.draw(label, self._batch_real, draws)
            augmented = dsa.draw(draws) if self._augment else _as_is
            rows = (labels == label).nonzero()[:, 0].to(images.device)
            leaf = images[rows].detach().requires_grad_()
            ours = augmented(self._real.standardised(leaf))
            target = loss_gradient(network, augmented(real), _all(label, real))
            distance = gradient_distance(loss_gradient(network, ours, _all(label, ours), graph=True), target)
            (gradient[rows],) = grad(distance, leaf)
            total += float(distance.detach())
        return gradient, {"loss": total}

    def _network_of(self, images: Tensor, labels: Tensor, step: int) -> nn.Module:
        iteration, place = divmod(step, self.updates)
        if place == 0 or self._network is None:
            if place:
                raise ValueError(f"step {step} goes on with a network that is not there; restore the state first")
            self._network = self._networks.new((*self._key, "network", iteration))
        else:
            self._train(self._network, self._real.standardised(images), labels.to(images.device), step)
        return self._network

    def _train(self, network: nn.Module, images: Tensor, labels: Tensor, step: int) -> None:
        parameters: list[Tensor] = list(network.parameters())
        for epoch in range(self._inner):
            draws = stream(*self._key, "train", step, epoch)
            for rows in torch.randperm(len(images), generator=draws).split(self._batch_train):
                seen = dsa.draw(draws, len(rows))(images[rows]) if self._augment else images[rows]
                gradients = loss_gradient(network, seen, labels[rows])
                with torch.no_grad():
                    torch._foreach_sub_(parameters, list(gradients), alpha=self._rate)

    def state_dict(self) -> dict[str, Tensor]:
        if self._network is None or self.updates == 1:
            return {}
        return {f"network/{name}": value.detach().clone() for name, value in self._network.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            self._network = self._networks.new((*self._key, "network", 0))
            for name, parameter in self._network.named_parameters():
                parameter.copy_(tensors[f"network/{name}"])


class DistributionMatching:
    """DM: the mean feature of our images of a class shall be that of real ones, whatever network evaluations."""

    updates = 1

    def __init__(
        self, real: RealImages, networks: Comparing, key: Key, *, batch_real: int = 256, augment: bool = True
    ) -> None:
        """
        Args:
            key: of the streams that networks, batches and augmentation are drawn from.
        """
        self._real, self._networks, self._key = real, networks, key
        self._batch_real, self._augment = batch_real, augment

    def gradient(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Metrics]:
        """The gradient of the squared distances of mean features, summed over the classes."""
        embed = self._networks.embedding((*self._key, "network", step))
        gradient, total = torch.zeros_like(images), 0.0
        for label in labels.unique().tolist():
            draws = stream(*self._key, "class", step, self._real.classes[label])
            real = self._real.draw(label, self._batch_real, draws)
            augmented = dsa.draw(draws) if self._augment else _as_is
            rows = (labels == label).nonzero()[:, 0].to(images.device)
            leaf = images[rows].detach().requires_grad_()
            with torch.no_grad():
                target = embed(augmented(real)).mean(0)
            distance = (target - embed(augmented(self._real.standardised(leaf))).mean(0)).square().sum()
            (gradient[rows],) = grad(distance, leaf)
            total += float(distance.detach())
        return gradient, {"loss": total}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is remembered."""


def _as_is(images: Tensor) -> Tensor:
    return images


def _all(label: int, images: Tensor) -> Tensor:
    return torch.full((len(images),), label, device=images.device)
