"""Deviation: away from what the class already has (eq. 9 of arXiv 2604.00519, eq. 8 of IGD)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from distillery.diffusion.step import Step


class ClassMemory:
    """The latents that each class already has, by label, in the order of their coming."""

    def __init__(self, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._latents: dict[int, list[Tensor]] = {}

    def add(self, latents: Tensor, labels: Tensor) -> None:
        """Append latents (N, C, H, W) to their classes; beyond the capacity the oldest leave."""
        for latent, label in zip(latents.detach(), labels.tolist(), strict=True):
            kept = self._latents.setdefault(label, [])
            kept.append(latent)
            if self._capacity is not None:
                del kept[: -self._capacity]

    def count(self, label: int) -> int:
        """How many latents a class has."""
        return len(self._latents.get(label, ()))

    def nearest(self, latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """For each latent the one of its class with the largest cosine.

        Returns:
            Those, (N, C, H, W), and (N,) whether the class has any.
        """
        found = torch.zeros_like(latents)
        has = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        for label in set(labels.tolist()):
            kept = self._latents.get(label)
            if kept:
                rows = (labels == label).nonzero()[:, 0]
                memory = torch.stack(kept).to(latents)
                best = cosines(latents[rows].flatten(1), memory.flatten(1)).argmax(1)
                found[rows], has[rows] = memory[best], True
        return found, has


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of every row of (N, d) with every row of (M, d): (N, M)."""
    return torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).T


def cosine_gradient(latents: Tensor, others: Tensor) -> Tensor:
    """Gradient of cos(x, m) with respect to x: (m/|m| - cos x/|x|) / |x|, for each pair of (N, C, H, W)."""
    x, m = latents.flatten(1), others.flatten(1)
    length = x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    unit, other = x / length, torch.nn.functional.normalize(m, dim=1)
    return ((other - (unit * other).sum(1, keepdim=True) * unit) / length).view_as(latents)


class DeviationGuidance:
    """Lowers the cosine between an image and the nearest latent that its class already has.

    By default both the choice of that latent and the gradient are taken at the predicted clean latent: at high noise
    the noisy one ranks noise. `xt` takes both at the noisy latent; `x0_chain` multiplies by the Jacobian of the clean
    latent with the noise prediction held fixed, 1/sqrt(abar), which is up to 71 in the guided range.
    """

    rank: ClassVar[int] = 3

    def __init__(
        self,
        memory: ClassMemory,
        *,
        strength: float,
        first: int,
        last: int,
        on: Literal["x0", "xt", "x0_chain"] = "x0",
    ) -> None:
        self._memory, self._strength, self._first, self._last, self._on = memory, strength, first, last, on

    def active(self, index: int) -> bool:
        """Within the guided range, both ends included, unless the strength is zero."""
        return self._strength != 0 and self._first <= index <= self._last

    def needs_graph(self) -> bool:
        """Never: the gradient has a closed form."""
        return False

    def shift(self, step: Step) -> Tensor:
        """The shift of the posterior mean, (N, C, H, W); zero where the class has no latents yet."""
        point = (step.noisy if self._on == "xt" else step.clean).detach()
        nearest, has = self._memory.nearest(point, step.labels)
        scale = self._strength
        if self._on == "x0_chain":
            scale /= float(step.schedule.alphas_cumprod[step.index].sqrt())
        return torch.where(has[:, None, None, None], -scale * cosine_gradient(point, nearest), 0.0)
