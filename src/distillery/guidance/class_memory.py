"""The latents that each class already has, and cosines with them."""

from __future__ import annotations

import torch
from torch import Tensor


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
        """For each latent the latent of its class with the largest cosine.

        Returns:
            The nearest latents, (N, C, H, W), and (N,) whether the class has any.
        """
        closest = torch.zeros_like(latents)
        has = torch.zeros(len(latents), dtype=torch.bool, device=latents.device)
        for label in set(labels.tolist()):
            kept = self._latents.get(label)
            if kept:
                rows = (labels == label).nonzero()[:, 0]
                memory = torch.stack(kept).to(latents)
                best = cosines(latents[rows].flatten(1), memory.flatten(1)).argmax(1)
                closest[rows], has[rows] = memory[best], True
        return closest, has


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of every row of (N, d) with every row of (M, d): (N, M)."""
    return torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).T


def cosine_gradient(latents: Tensor, others: Tensor) -> Tensor:
    """Gradient of cos(x, m) with respect to x: (m/|m| - cos x/|x|) / |x|, for each pair of (N, C, H, W)."""
    x, m = latents.flatten(1), others.flatten(1)
    length = x.norm(dim=1, keepdim=True).clamp_min(1e-12)
    unit, other = x / length, torch.nn.functional.normalize(m, dim=1)
    return ((other - (unit * other).sum(1, keepdim=True) * unit) / length).view_as(latents)
