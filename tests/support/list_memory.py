"""The memories of latents with plain lists: what they keep and what their losses are, to compare with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.diffusion.memory import LatentMemory, Policy


class Lists:
    """A memory as lists: one class after another, one latent after another."""

    def __init__(self, policy: Policy, size: int, classes: int) -> None:
        self.policy, self.size = policy, size
        self.kept: dict[int, list[Tensor]] = {label: [] for label in range(classes)}

    def add(self, latents: Tensor, labels: Tensor, where: Tensor | None = None) -> None:
        for row, label in enumerate(labels.tolist()):
            if where is None or where[row]:
                self.kept[label].append(latents[row].detach())
        for members in self.kept.values():
            while len(members) > self.size:
                del members[self.leaves(members)]

    def leaves(self, members: list[Tensor]) -> int:
        if self.policy == "fifo":
            return 0
        stacked = F.normalize(torch.stack(members), dim=1)
        summed = (stacked @ stacked.T).sum(1)
        return int(summed.argmax() if self.policy == "max" else summed.argmin())

    def loss(self, latents: Tensor, labels: Tensor, extreme: str) -> Tensor:
        classes = labels.unique().tolist()
        total = torch.zeros((), dtype=torch.float64)
        for label in classes:
            if self.kept[label]:
                inside, stored = latents[labels == label], torch.stack(self.kept[label])
                cosines = F.cosine_similarity(inside[:, None], stored[None], dim=2)
                total = total + (1 - cosines.min() if extreme == "min" else cosines.max())
        return total / len(classes)


def held(memory: LatentMemory, label: int) -> Tensor:
    """The unit vectors of a class, the oldest first."""
    rows = memory.valid[label].nonzero()[:, 0]
    return memory.units[label][rows[memory.stamps[label][rows].argsort()]]
