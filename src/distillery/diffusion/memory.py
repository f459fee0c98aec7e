"""Memories of latents by class, as tensors on the device: cosines with all of them, insertion and eviction in batches.

Nothing here asks the device for a number: every shape is fixed and every choice is a mask, so a step never waits.

Sources: Minimax diffusion (arXiv 2311.15529) keeps the newest latents of a class; self-adaptive memory
(arXiv 2505.19469) lets the one leave that resembles the others most.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Policy = Literal["fifo", "max", "min"]

MANY_CLASSES = 4
"""Classes per sample up to which a product with the latents of all costs less than copies of those of its own."""


class LatentMemory:
    """At most `size` latents of each class, as unit vectors.

    A class has `size + batch` places, so that a whole batch fits in before anything leaves, and one more that is never
    valid: what shall not be kept is written there.

    Attributes:
        units: (classes, places, numbers), fp32.
        valid: (classes, places) bool.
        stamps: (classes, places) int64: step * batch + row in the batch, so that no two are equal.
        gram: (classes, places, places), cosines between the latents of a class, zero on the diagonal.
        clock: () int64, how many batches came.
    """

    def __init__(
        self,
        classes: int,
        size: int,
        batch: int,
        numbers: int,
        *,
        policy: Policy,
        max_age: int | None = None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """
        Args:
            batch: samples of one step.
            numbers: d, how many numbers one latent has.
            policy: what leaves a full class: the oldest, or the latent whose summed cosine with the others of its class
                is the largest or the smallest, one at a time. Ties: the oldest.
            max_age: latents leave after so many steps; None: they do not.

        Raises:
            ValueError: no place for a latent.
        """
        if size < 1:
            raise ValueError(f"memory_size: {size}; a memory holds at least one latent per class")
        places = size + batch + 1
        self.size, self.batch, self.policy, self.max_age = size, batch, policy, max_age
        self.units = torch.zeros(classes, places, numbers, device=device, dtype=dtype)
        self.valid = torch.zeros(classes, places, device=device, dtype=torch.bool)
        self.stamps = torch.zeros(classes, places, device=device, dtype=torch.int64)
        self.gram = torch.zeros(classes, places, places, device=device, dtype=dtype)
        self.clock = torch.zeros((), device=device, dtype=torch.int64)
        self._classes = torch.arange(classes, device=device)

    def extremes(self, latents: Tensor, labels: Tensor, extreme: Literal["min", "max"]) -> tuple[Tensor, Tensor]:
        """Of each latent (B, …) with labels (B,) the smallest or the largest cosine with the latents of its class.

        The choice of that latent has no graph; the gradient goes through the chosen pair.

        Returns:
            The cosines, (B,), undefined where the class is empty; and (B,) whether it is not.
        """
        units = unit(latents).to(self.units.dtype)
        return self.extremes_among(units, labels, self.cosines(units, labels), extreme)

    def extremes_among(
        self, units: Tensor, labels: Tensor, cosines: Tensor, extreme: Literal["min", "max"]
    ) -> tuple[Tensor, Tensor]:
        """As `extremes`, for unit vectors (B, d) whose `cosines` are known."""
        counts = self.valid[labels]
        with torch.no_grad():
            compared = cosines.masked_fill(~counts, torch.inf if extreme == "min" else -torch.inf)
            place = compared.argmin(1) if extreme == "min" else compared.argmax(1)
        return (units * self.units[labels, place]).sum(1), counts.any(1)

    @torch.no_grad()
    def add(self, latents: Tensor, labels: Tensor, where: Tensor | None = None) -> None:
        """Append latents to their classes, then evict down to the size.

        Args:
            latents: (B, …), B at most `batch`.
            labels: (B,) int64.
            where: (B,) bool, which of them are kept at all; None: every one.

        Raises:
            ValueError: more latents than a batch has.
        """
        units = unit(latents).to(self.units.dtype)
        self.add_units(units, labels, self.cosines(units, labels), where)

    @torch.no_grad()
    def add_units(self, units: Tensor, labels: Tensor, cosines: Tensor, where: Tensor | None = None) -> None:
        """As `add`, for unit vectors (B, d) and their cosines with the places of their class, (B, places)."""
        if len(units) > self.batch:
            raise ValueError(f"{len(units)} latents, but the memory has room for {self.batch} in a step")
        kept = torch.ones_like(labels, dtype=torch.bool) if where is None else where
        trash = self.valid.shape[1] - 1
        # The k-th latent of its class goes to the k-th free place of that class.
        of_class = (labels[:, None] == self._classes) & kept[:, None]
        rank = (of_class.cumsum(0) - 1).gather(1, labels[:, None])
        free = ~self.valid
        free[:, trash] = False
        place = (free[labels] & (free.cumsum(1)[labels] - 1 == rank)).to(torch.uint8).argmax(1)
        place = torch.where(kept, place, trash)
        self.units[labels, place] = units
        self.valid[labels, place] = kept
        rows = torch.arange(len(labels), device=labels.device)
        self.stamps[labels, place] = self.clock * self.batch + rows
        if self.policy != "fifo":
            self._extend_gram(units, labels, place, cosines)
        if self.max_age is not None:
            self.valid &= self.clock - self.stamps // self.batch < self.max_age
        self.clock += 1
        if self.policy == "fifo":
            self._keep_newest()
        else:
            self._evict(self.eviction_rounds(len(labels)))

    @torch.no_grad()
    def cosines(self, units: Tensor, labels: Tensor) -> Tensor:
        """Of unit vectors (B, d) with all places of their class, (B, places)."""
        if len(self.valid) <= MANY_CLASSES * len(labels):  # one product with all of them spares the copies
            every = units @ self.units.flatten(0, 1).T
            rows = torch.arange(len(labels), device=labels.device)
            return every.view(len(labels), *self.valid.shape)[rows, labels]
        return torch.einsum("bd,bsd->bs", units, self.units[labels])

    def _extend_gram(self, units: Tensor, labels: Tensor, place: Tensor, cosines: Tensor) -> None:
        """Cosines of new latents with their class, as rows and columns, O(N d) for each."""
        self.gram[labels, place] = cosines
        self.gram[labels, :, place] = cosines
        # Those that are new know nothing of each other yet. Rounding may tell the two cosines of a pair apart.
        between = units @ units.T
        between = torch.maximum(between, between.T).fill_diagonal_(0.0)
        same, columns = labels[:, None] == labels, place.expand(len(place), -1)
        trash = self.valid.shape[1] - 1
        self.gram[labels, columns.T.where(same, trash), columns.where(same, trash)] = between

    def _keep_newest(self) -> None:
        """Of every class the newest latents, as many as it may hold."""
        newest = self.stamps.masked_fill(~self.valid, -1).topk(self.size, 1).values
        self.valid &= self.stamps >= newest[:, -1:]

    def eviction_rounds(self, added: int) -> int:
        """Rounds of eviction: no class needs more than were added, and a CPU can be asked how many it needs."""
        return min(added, int(self.valid.sum(1).max()) - self.size) if self.valid.device.type == "cpu" else added

    def _evict(self, rounds: int) -> None:
        """Evict latents, at most one of each class in a round, from the classes that hold too many, by the policy."""
        sign = 1.0 if self.policy == "max" else -1.0
        scores = sign * self.scores()
        for _ in range(rounds):
            over = self.valid.sum(1) > self.size
            ranked = scores.masked_fill(~self.valid, -torch.inf)
            candidates = self.valid & (ranked == ranked.amax(1, keepdim=True))
            leaves = self.stamps.masked_fill(~candidates, torch.iinfo(torch.int64).max).argmin(1)
            self.valid[self._classes, leaves] &= ~over
            scores = scores - sign * self.gram[self._classes, :, leaves] * over[:, None]

    def scores(self) -> Tensor:
        """v, the summed cosine of each latent with the others of its class: (classes, places).

        Summed anew in each step, for running sums drift; within a step, what leaves is taken off.
        """
        return (self.gram @ self.valid[..., None].to(self.gram.dtype))[..., 0]

    def statistics(self) -> dict[str, Tensor]:
        """Means over all valid latents, each (): how many there are, their age in steps, and v per other latent."""
        count = self.valid.sum()
        ages = self.clock - 1 - self.stamps // self.batch
        gram = torch.einsum("csd,ctd->cst", self.units, self.units) * self.valid[:, None, :] * self.valid[:, :, None]
        pairs = (self.valid.sum(1) * (self.valid.sum(1) - 1)).sum().clamp_min(1)
        own = gram.diagonal(dim1=1, dim2=2).sum()
        return {
            "count": count,
            "age": (ages * self.valid).sum() / count.clamp_min(1),
            "cosine": (gram.sum() - own) / pairs,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on; the Gram matrix too, which rounding would not give back."""
        return {name: getattr(self, name).clone() for name in ("units", "valid", "stamps", "clock", "gram")}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            getattr(self, name).copy_(value)


def unit(latents: Tensor) -> Tensor:
    """Latents (B, …) as unit vectors (B, d) in fp32 or more; a latent of zeros stays one, and has no gradient."""
    flat = latents.flatten(1)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    squares = flat.square().sum(1, keepdim=True)
    present = squares > 0
    return torch.where(present, flat / torch.where(present, squares, 1.0).sqrt(), 0.0)
