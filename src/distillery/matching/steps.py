"""The optimiser of images: SGD with momentum, or steps in units of the sigma that an image began with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor


def _per_image(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


class Optimiser:
    """Steps parameters in place; the step of an image depends on that image alone.

    Attributes:
        velocity: momentum of each parameter, of its shape.
    """

    def __init__(
        self,
        parameters: dict[str, Tensor],
        rates: Mapping[str, float],
        *,
        rule: Literal["relative", "absolute"],
        momentum: float,
    ) -> None:
        """
        Args:
            parameters: each (N, …), at their initial values.
            rates: of each parameter.
            rule: `relative`: the gradient of an image is divided by its RMS, and the rate counts in standard deviations
                of the image's initial values, or in ones where these are all equal; `absolute`: SGD.
        """
        self._parameters, self._rates, self._rule, self._momentum = parameters, dict(rates), rule, momentum
        self.velocity = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self._units: dict[str, Tensor] = {}
        self._lengths: dict[str, Tensor] = {}
        for name, value in parameters.items():
            sigma = value.flatten(1).std(1)
            self._units[name] = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
            self._lengths[name] = value.flatten(1).square().mean(1).sqrt().maximum(self._units[name])

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor]) -> None:
        """One step of every parameter."""
        for name, parameter in self._parameters.items():
            gradient, rate = gradients[name], self._rates[name]
            if self._rule == "relative":
                size = gradient.flatten(1).square().mean(1).sqrt()
                gradient = gradient / _per_image(torch.where(size > 0, size, torch.ones_like(size)), gradient)
                scaled = _per_image(rate * self._units[name], gradient)
            else:
                scaled = torch.tensor(rate, device=gradient.device)
            velocity = self.velocity[name].mul_(self._momentum).add_(gradient)
            parameter.sub_(scaled * velocity)

    def growth(self) -> dict[str, float]:
        """By how much the parameters have grown, most of all images: RMS now by RMS at first; not finite if one is."""
        growth = {}
        for name, parameter in self._parameters.items():
            now = parameter.flatten(1).square().mean(1).sqrt()
            growth[name] = float((now / self._lengths[name]).max())
        return growth

    def state_dict(self) -> dict[str, Tensor]:
        """Momentum, and what rates count in."""
        return {
            f"{kind}/{name}": value.clone()
            for kind, values in (("velocity", self.velocity), ("unit", self._units), ("length", self._lengths))
            for name, value in values.items()
        }

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        for kind, values in (("velocity", self.velocity), ("unit", self._units), ("length", self._lengths)):
            for name, value in values.items():
                value.copy_(tensors[f"{kind}/{name}"])
