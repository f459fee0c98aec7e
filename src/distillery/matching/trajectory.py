"""Trajectory matching: training on our images shall lead where training on the real ones led (MTT, arXiv 2203.11932).

The gradient is taken in constant memory (TESLA, arXiv 2211.10586), with the factor 2 of the derivative of a square,
which released codes lost by doubling a tuple.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import grad
from torch.func import functional_call
from torch.nn import functional as F

from distillery.devices import plain_attention
from distillery.matching import dsa
from distillery.matching.experts import Trajectories, shapes_of, unflattened
from distillery.matching.networks import Comparing
from distillery.matching.objectives import Metrics
from distillery.matching.real_images import RealImages
from distillery.storage.images import LEARNED_RATE
from distillery.streams import Key, stream

LEAST_RATE = 1e-6
"""Alpha does not fall below it."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(weights (P,), images, labels) -> ()."""


class Batch(NamedTuple):
    """One step on our images: which, with what labels, and how the network sees them; repeated, it is the same."""

    rows: Tensor
    labels: Tensor
    seen: Callable[[Tensor], Tensor]


class TrajectoryGradient(NamedTuple):
    """The gradient of the distance to an expert.

    Attributes:
        images: gradient at the images.
        rate: gradient at alpha, ().
        loss: ().
    """

    images: Tensor
    rate: Tensor
    loss: Tensor


def trajectory_gradient(
    loss: Loss, start: Tensor, target: Tensor, batches: Sequence[Batch], images: Tensor, rate: float, *, exact: bool
) -> TrajectoryGradient:
    """The gradient of |theta_N - theta*|^2 / |theta_0 - theta*|^2 with respect to images and learning rate.

    theta_{i+1} = theta_i - alpha g_i with g_i the gradient of `loss` on batch i. The weights of all steps are kept, the
    graph of one step at a time.

    Args:
        start, target: (P,), theta_0 and theta*.
        images: (N, …), what batches take rows of.
        exact: carry the adjoint through earlier steps, as unrolling does; otherwise each theta_i is held fixed.
    """
    scale = (start - target).square().sum()
    weights, total = [start.detach()], torch.zeros_like(start)
    for batch in batches:
        leaf = weights[-1].requires_grad_()
        (gradient,) = grad(loss(leaf, batch.seen(images[batch.rows].detach()), batch.labels), leaf)
        weights.append(leaf.detach() - rate * gradient)
        total = total + gradient
    miss = weights[-1] - target
    value = miss.square().sum() / scale
    adjoint = 2 * miss / scale
    of_images = torch.zeros_like(images)
    of_rate = torch.zeros_like(value) if exact else -(adjoint @ total)
    for batch, before in reversed(list(zip(batches, weights, strict=False))):
        ours, leaf = images[batch.rows].detach().requires_grad_(), before.detach().requires_grad_()
        (gradient,) = grad(loss(leaf, batch.seen(ours), batch.labels), leaf, create_graph=True)
        of_batch, of_weights = grad(-rate * (adjoint @ gradient), [ours, leaf])
        of_images.index_add_(0, batch.rows, of_batch)
        if exact:
            of_rate = of_rate - adjoint @ gradient.detach()
            adjoint = adjoint + of_weights
    return TrajectoryGradient(of_images, of_rate, value)


class TrajectoryMatching:
    """MTT: N steps on our images from an expert's state shall reach its state M epochs later."""

    updates = 1

    def __init__(
        self,
        real_images: RealImages,
        networks: Comparing,
        experts: Trajectories,
        key: Key,
        *,
        epochs: int = 3,
        max_start_epoch: int = 5,
        steps: int = 20,
        batch: int | None = None,
        learning_rate: float = 0.01,
        learning_rate_step: float = 1e-6,
        momentum: float = 0.5,
        gradient: Literal["tesla", "exact"] = "tesla",
        augment: bool = True,
    ) -> None:
        """
        Args:
            key: of the streams that experts, batches and augmentation are drawn from.
            epochs: M, by how much the expert is ahead.
            max_start_epoch: the start is drawn below it.
            steps: N.
            batch: of our images in one step; None: all.
            learning_rate_step: learning rate of alpha, SGD with `momentum`.
        """
        self._real_images, self._experts, self._key = real_images, experts, key
        self._epochs, self._most, self._steps, self._batch = epochs, max_start_epoch, steps, batch
        self._step_of_rate, self._momentum = learning_rate_step, momentum
        self.exact, self._augment = gradient == "exact", augment
        self._rate, self._velocity = learning_rate, 0.0
        self._network: Any = networks.new((*key, "network")).requires_grad_(False)
        self._shapes = shapes_of(self._network)

    def gradient(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Metrics]:
        """The gradient at the images; alpha takes a step of its own."""
        draws = stream(*self._key, "trajectory", step)
        expert = int(torch.randint(len(self._experts), (), generator=draws))
        epoch = int(torch.randint(self._most, (), generator=draws))
        start, target = (
            self._experts.state(expert, number).to(images.device) for number in (epoch, epoch + self._epochs)
        )
        batches = self.batches(labels, draws, images.device)
        gradient = trajectory_gradient(self._loss, start, target, batches, images, self._rate, exact=self.exact)
        before = self._rate
        self._learn_rate(float(gradient.rate))
        return gradient.images, {"loss": float(gradient.loss), "learning_rate": before}

    def _loss(self, weights: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        parameters = unflattened(weights, self._shapes)
        with plain_attention():
            return F.cross_entropy(functional_call(self._network, parameters, (images,)), labels)

    def batches(self, labels: Tensor, draws: torch.Generator, device: torch.device) -> list[Batch]:
        """N batches of permutations of our images; a new permutation begins when one is used up."""
        waiting: list[Tensor] = []
        drawn_batches = []
        for _ in range(self._steps):
            if not waiting:
                waiting = list(torch.randperm(len(labels), generator=draws).split(self._batch or len(labels)))
            rows = waiting.pop(0)
            augmented = dsa.draw(draws, len(rows)) if self._augment else lambda images: images
            seen = partial(self._seen, augmented)
            drawn_batches.append(Batch(rows.to(device), labels[rows].to(device), seen))
        return drawn_batches

    def _seen(self, augmented: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        return augmented(self._real_images.ours(images))

    def _learn_rate(self, gradient: float) -> None:
        if math.isfinite(gradient):
            self._velocity = self._momentum * self._velocity + gradient
            self._rate = max(self._rate - self._step_of_rate * self._velocity, LEAST_RATE)

    def learned(self) -> dict[str, float]:
        """Alpha, as it stands after the last step."""
        return {LEARNED_RATE: self._rate}

    def state_dict(self) -> dict[str, Tensor]:
        return {"rate": torch.tensor([self._rate, self._velocity], dtype=torch.float64)}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        self._rate, self._velocity = tensors["rate"].tolist()
