"""IDC-I (arXiv 2205.14959): gradients of convolutions, on networks that are themselves in training on real images."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn import functional as F

from distillery.errors import StopRequested
from distillery.matching.networks import Comparing
from distillery.matching.objectives import Metrics, loss_gradient
from distillery.matching.real_images import RealImages
from distillery.storage.resume import stop_requested
from distillery.streams import Key, stream
from distillery.students.augment import cutmix, draw_box, dsa

NETWORK_MOMENTUM = 0.9


def convolution_distance(ours: tuple[Tensor, ...], real: tuple[Tensor, ...]) -> Tensor:
    """Sum of absolute differences of the gradients of convolutions, (); biases, norms and classifier are left out."""
    parts = [(our - their).abs().sum() for our, their in zip(ours, real, strict=True) if our.ndim == 4]
    return torch.stack(parts).sum()


@dataclass
class IDCMatching:
    """One class per step: a network learns on real images, and between its steps our images take theirs.

    Attributes:
        key: of the streams that networks, batches and augmentation are drawn from.
        inner: rounds on one network.
        epochs: that a network learns on all real images before the first round.
        images: real images that it sees between two rounds, in batches of `batch_train`.
        network_rate, network_decay: of that training, SGD with momentum 0.9.
        updates: steps of the images on one network: rounds times classes.
    """

    real_images: RealImages
    networks: Comparing
    key: Key
    _: KW_ONLY
    inner: int = 100
    batch_real: int = 64
    batch_ours: int = 128
    epochs: int = 10
    images: int = 500
    batch_train: int = 64
    network_rate: float = 0.01
    network_decay: float = 5e-4

    def __post_init__(self) -> None:
        self._classes = len(self.real_images.classes)
        self.updates = self.inner * self._classes
        self._network: nn.Module | None = None
        self._velocity: list[Tensor] = []

    def gradient(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Metrics]:
        network, (within, label) = self._network_at(step), divmod(step % self.updates, self._classes)
        draws = stream(*self.key, "class", step)
        rows = (labels == label).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=draws)[: self.batch_ours]].to(images.device)
        real = self.real_images.draw(label, self.batch_real, draws)
        uniform = torch.rand(3, 1, 4, generator=draws).to(images.device)
        leaf = images[rows].detach().requires_grad_()
        seen = [
            _three(images, uniform.expand(-1, len(images), -1), ("color", "crop", "cutout"))
            for images in (real, self.real_images.ours(leaf))
        ]
        target, ours = (
            loss_gradient(network, batch, torch.full((len(batch),), label, device=batch.device), graph=place == 1)
            for place, batch in enumerate(seen)
        )
        distance = convolution_distance(ours, target)
        gradient = torch.zeros_like(images)
        (gradient[rows],) = grad(distance, leaf)
        return gradient, {"loss": float(distance.detach()), "round": within}

    def _network_at(self, step: int) -> nn.Module:
        """The network of a step: a new network after some epochs of training, or the last network after a round.

        Raises:
            StopRequested: while a new network was trained.
        """
        iteration, within = divmod(step, self.updates)
        if within == 0:
            self._network = self.networks.new((*self.key, "network", iteration))
            self._velocity = [torch.zeros_like(value) for value in self._network.parameters()]
            for epoch in range(self.epochs):
                if stop_requested():  # on resuming, this network begins anew
                    raise StopRequested
                draws = stream(*self.key, "before", iteration, epoch)
                self.learn(self._network, torch.randperm(len(self.real_images.labels), generator=draws), draws)
        assert self._network is not None, "restore the state first"
        if within and within % self._classes == 0:
            draws = stream(*self.key, "between", step)
            rows = torch.randperm(len(self.real_images.labels), generator=draws)[: self.images]
            self.learn(self._network, rows, draws)
        return self._network

    def learn(self, network: nn.Module, rows: Tensor, draws: torch.Generator) -> None:
        """One pass of SGD over real images: colour and crop for each image, and CutMix with one box per batch."""
        parameters = list(network.parameters())
        for some in rows.split(self.batch_train):
            labels = self.real_images.labels[some].to(self.real_images.pixels.device)
            uniform = torch.rand(2, len(some), 4, generator=draws).to(labels.device)
            seen = _three(self.real_images.seen(some), uniform, ("color", "crop"))
            partner = torch.randperm(len(some), generator=draws).to(labels.device)
            box = draw_box(seen.shape[-2], seen.shape[-1], draws).to(labels.device)
            seen, share = cutmix(seen, partner, box)
            answers = network(seen)
            own, other = (F.cross_entropy(answers, of, reduction="none") for of in (labels, labels[partner]))
            gradients = grad((share * own + (1 - share) * other).mean(), parameters)
            with torch.no_grad():
                for parameter, velocity, gradient in zip(parameters, self._velocity, gradients, strict=True):
                    velocity.mul_(NETWORK_MOMENTUM).add_(gradient + self.network_decay * parameter)
                    parameter.sub_(self.network_rate * velocity)

    def learned(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        if self._network is None:
            return {}
        named = list(self._network.named_parameters())
        return {f"network/{name}": value.detach().clone() for name, value in named} | {
            f"velocity/{name}": value.clone() for (name, _), value in zip(named, self._velocity, strict=True)
        }

    @torch.no_grad()
    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        if tensors:
            self._network = self.networks.new((*self.key, "network", 0))
            for name, parameter in self._network.named_parameters():
                parameter.copy_(tensors[f"network/{name}"])
            device = self.real_images.pixels.device
            self._velocity = [
                tensors[f"velocity/{name}"].to(device).clone() for name, _ in self._network.named_parameters()
            ]


def _three(images: Tensor, uniform: Tensor, operations: tuple[str, ...]) -> Tensor:
    """All of these operations, one after another; uniform: (operations, N, 4)."""
    for operation, numbers in zip(operations, uniform, strict=True):
        images = dsa(images, operation, numbers, align_corners=False)
    return images
