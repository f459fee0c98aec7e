"""The memory terms of Minimax and self-adaptive memory, on top of any loss of a denoiser.

Sources: Minimax diffusion (arXiv 2311.15529); self-adaptive memory (arXiv 2505.19469). Where the papers and what they
ran differ, both are here.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from distillery.diffusion.generators import Training
from distillery.diffusion.losses import DiffusionLoss, TrainingObjective, TrainingStep
from distillery.diffusion.memory import LatentMemory, Policy, unit
from distillery.storage.tensors import below

Reduction = Literal["class_extreme", "sample_mean"]
Multiplicity = Literal["once", "cumulative"]


def reduce_extremes(
    extremes: Tensor,
    has: Tensor,
    labels: Tensor,
    classes: int,
    *,
    extreme: Literal["min", "max"],
    reduction: Reduction = "class_extreme",
    multiplicity: Multiplicity = "once",
) -> Tensor:
    """The term of one memory, (): 1 - the smallest cosine, or the largest one, by class or by sample.

    `class_extreme`: one pair of each class carries the gradient; mean over the distinct classes of the batch.
    `sample_mean`: one pair of each sample; mean over the batch. What has nothing to be compared with counts 0 in both.

    Args:
        extremes: (B,), the extreme cosine of each sample.
        has: (B,) bool, whether it had anything to be compared with.
        labels: (B,) int64.
        multiplicity: `cumulative`: the k-th of n classes, by label, counts n-k+1 times, as in the published code of
            self-adaptive memory, which adds its running sums to the loss inside the loop over classes.
    """
    number: Tensor | int = len(labels)
    weights = torch.ones_like(extremes)
    if reduction == "class_extreme":
        void = torch.inf if extreme == "min" else -torch.inf
        member = labels[:, None] == torch.arange(classes, device=labels.device)
        counted = member & has[:, None]
        extremes = _extreme(torch.where(counted, extremes[:, None], void), 0, extreme)
        has, present = counted.any(0), member.any(0)
        number = present.sum()
        weights = torch.ones_like(extremes) if multiplicity == "once" else number - present.cumsum(0) + 1
    # Infinities stay out of the graph: their gradient is not a number even where it is multiplied by zero.
    value = torch.where(has, extremes, 0.0)
    terms = torch.where(has, 1 - value if extreme == "min" else value, 0.0)
    return (weights * terms).sum() / number


def _extreme(values: Tensor, dim: int, extreme: Literal["min", "max"]) -> Tensor:
    return values.amin(dim) if extreme == "min" else values.amax(dim)


class MemoryObjective:
    """A loss plus two terms on the predicted clean latent z^ (Minimax, self-adaptive memory).

    representativeness: maximise the cosine with the least similar real latent of the class;
    diversity: minimise the cosine with the most similar earlier prediction of the class.

    A step is compared with the memories as they were before it; then its latents and predictions come in, and each
    class is brought down to its size. So no sample meets itself, and the first of a class adds nothing.
    """

    def __init__(
        self,
        plain: TrainingObjective,
        real: LatentMemory,
        generated: LatentMemory,
        *,
        lambda_real: float,
        lambda_generated: float,
        reduction: Reduction = "class_extreme",
        multiplicity: Multiplicity = "once",
        real_latent: Literal["sample", "mean"] = "sample",
        max_timestep: int | None = None,
    ) -> None:
        """
        Args:
            plain: the loss that the terms are added to.
            real_latent: what the memory of real latents keeps: the sample that was trained on, or its posterior mean.
            max_timestep: beyond it predictions neither add to the terms nor enter the memory; None: all do.

        Raises:
            ValueError: `cumulative` with `sample_mean`, which has no loop over classes.
        """
        if multiplicity == "cumulative" and reduction == "sample_mean":
            raise ValueError("multiplicity: cumulative counts classes, and reduction: sample_mean has none")
        self.real, self.generated = real, generated
        self._plain = plain
        self.terms: dict[str, Tensor] = {}
        self._lambdas = lambda_real, lambda_generated
        self._options: dict[str, Any] = {"reduction": reduction, "multiplicity": multiplicity}
        self._real_latent, self._max_timestep = real_latent, max_timestep

    def loss(self, step: TrainingStep) -> Tensor:
        """The loss, (); afterwards both memories hold the step."""
        loss = self._plain.loss(step)
        self.terms = self._plain.terms or {"squared_error": loss.detach()}
        # Cosines are taken in fp32 whatever the network computes in.
        with torch.autocast(step.clean.device.type, enabled=False):
            labels, limit = step.labels, self._max_timestep
            near = torch.ones_like(labels, dtype=torch.bool) if limit is None else step.timesteps <= limit
            predicted = unit(step.predicted_clean.float())
            real = unit(step.clean if self._real_latent == "sample" else step.mean)
            # One product says what is compared and what the memory of real latents wants to know of those that come.
            both = self.real.cosines(torch.cat([predicted, real]), labels.repeat(2)).chunk(2)
            earlier = self.generated.cosines(predicted, labels)
            compared: list[tuple[str, float, LatentMemory, Tensor, Literal["min", "max"]]] = [
                ("representativeness", self._lambdas[0], self.real, both[0], "min"),
                ("diversity", self._lambdas[1], self.generated, earlier, "max"),
            ]
            for name, weight, memory, cosines, extreme in compared:
                if weight:
                    extremes, has = memory.extremes_among(predicted, labels, cosines, extreme)
                    classes = len(memory.valid)
                    term = reduce_extremes(extremes, has & near, labels, classes, extreme=extreme, **self._options)
                    self.terms[name] = term.detach()
                    loss = loss + weight * term
            self.real.add_units(real, labels, both[1])
            self.generated.add_units(predicted.detach(), labels, earlier, near)
        return loss

    def summary(self) -> str:
        """What the memories hold, for a log: how many latents, their mean age in steps, their mean cosine."""
        lines = []
        for name, memory in self._memories().items():
            means = {key: float(value) for key, value in memory.statistics().items()}
            lines.append(
                f"memory of {name} latents: {means['count']:.0f}, {means['age']:.0f} steps old, "
                f"cosine {means['cosine']:.3f}"
            )
        return "\n".join(lines)

    def state_dict(self) -> dict[str, Tensor]:
        return self._plain.state_dict() | {
            f"{name}/{key}": value
            for name, memory in self._memories().items()
            for key, value in memory.state_dict().items()
        }

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        for name, memory in self._memories().items():
            memory.load_state_dict(below(tensors, f"{name}/"))

    def _memories(self) -> dict[str, LatentMemory]:
        return {"real": self.real, "generated": self.generated}


def memory_objective(
    plain: TrainingObjective,
    *,
    classes: int,
    batch: int,
    numbers: int,
    device: torch.device,
    policy_real: Policy,
    policy_generated: Policy,
    memory_size: int,
    max_age: int | None,
    **options: Any,
) -> MemoryObjective:
    """A `MemoryObjective` with empty memories.

    Args:
        batch: samples that the loss sees at once.
        numbers: d, how many numbers one latent has.
        options: those of `MemoryObjective`.
    """
    real, generated = (
        LatentMemory(classes, memory_size, batch, numbers, policy=policy, max_age=max_age, device=device)
        for policy in (policy_real, policy_generated)
    )
    return MemoryObjective(plain, real, generated, **options)


def objective_of(
    recipe: Training, scheduler: Any, *, classes: int, numbers: int, device: torch.device
) -> TrainingObjective:
    """The objective of a generator's settings, for latents of `numbers` values and the classes of the data."""
    plain = DiffusionLoss(scheduler, device, recipe.min_snr_gamma)
    if not recipe.objective.remembers:
        return plain
    return memory_objective(
        plain,
        classes=classes,
        batch=recipe.batch_size // recipe.accumulate,
        numbers=numbers,
        device=device,
        **recipe.objective.model_dump(exclude={"kind"}),
    )
