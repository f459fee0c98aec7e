"""What a generator is trained for: the diffusion loss, and the memory terms of Minimax and self-adaptive memory.

Sources: Minimax diffusion (arXiv 2311.15529); self-adaptive memory (arXiv 2505.19469); the variational bound of learned
variances (arXiv 2102.09672). Both papers print the mean squared error alone; what they ran adds the bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.diffusion.memory import LatentMemory, Policy


@dataclass
class TrainingStep:
    """One batch at random timesteps, and what the model makes of it.

    Attributes:
        clean: (B, C, H, W) latents that were noised; `mean` those of the autoencoder's posterior without its noise.
        noisy, noise: (B, C, H, W).
        timesteps: (B,) int64, 0 to T-1.
        labels: (B,) int64, the true classes, also of samples whose label was dropped.
        output: (B, C, H, W), or (B, 2C, H, W) where the model learns its variance.
    """

    clean: Tensor
    mean: Tensor
    noisy: Tensor
    noise: Tensor
    timesteps: Tensor
    labels: Tensor
    output: Tensor

    @property
    def predicted(self) -> Tensor:
        """The noise prediction, (B, C, H, W)."""
        return self.output[:, : self.noise.shape[1]]

    @property
    def variance_logits(self) -> Tensor | None:
        """(B, C, H, W), or None where the variance is not learned."""
        channels = self.noise.shape[1]
        return self.output[:, channels:] if self.output.shape[1] > channels else None


class Objective(Protocol):
    """A loss of a step, and what it has to remember from one step to the next."""

    def loss(self, step: TrainingStep) -> Tensor:
        """The loss, (); what is remembered takes the step in, after the loss is computed."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        ...


class DiffusionLoss:
    """Mean squared error of the noise, plus the variational bound where the variance is learned (`plain`)."""

    def __init__(self, scheduler: Any, device: torch.device) -> None:
        self._schedule = TrainingSchedule(scheduler, device)

    def loss(self, step: TrainingStep) -> Tensor:
        """The loss, ()."""
        error = F.mse_loss(step.predicted, step.noise)
        logits = step.variance_logits
        if logits is None:
            return error
        bound = self._schedule.variational_bound(
            step.predicted.detach(), logits, step.clean, step.noisy, step.timesteps
        )
        return error + bound.mean()

    def state(self) -> dict[str, Tensor]:
        """Nothing is remembered."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is remembered."""


class TrainingSchedule:
    """The constants of all training timesteps, and the bound that trains a learned variance."""

    def __init__(self, scheduler: Any, device: torch.device) -> None:
        betas = scheduler.betas.double()
        abar = (1 - betas).cumprod(0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        least = betas * (1 - before) / (1 - abar)
        least = torch.cat([least[1:2], least[1:]])  # at t = 0 the posterior has no variance, and no logarithm
        constants = {
            "scale": abar.sqrt(),
            "noise_scale": (1 - abar).sqrt(),
            "log_most": betas.log(),
            "log_least": least.log(),
            "of_clean": before.sqrt() * betas / (1 - abar),
            "of_noisy": (1 - betas).sqrt() * (1 - before) / (1 - abar),
        }
        self._constants = {name: value.float().to(device) for name, value in constants.items()}

    def _at(self, name: str, timesteps: Tensor) -> Tensor:
        return self._constants[name][timesteps][:, None, None, None]

    def clean(self, noisy: Tensor, predicted: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latent that a noise prediction implies, unclipped: (B, C, H, W)."""
        return (noisy - self._at("noise_scale", timesteps) * predicted) / self._at("scale", timesteps)

    def variational_bound(
        self, predicted: Tensor, logits: Tensor, clean: Tensor, noisy: Tensor, timesteps: Tensor
    ) -> Tensor:
        """Bits per number of one reverse step, (B,): KL of both posteriors, at t = 0 the likelihood of the latent.

        Args:
            predicted: noise prediction, detached: the bound trains the variance alone.
            logits: v; the log variance is (v+1)/2 log beta + (1-v)/2 log beta~.
        """
        most, least = self._at("log_most", timesteps), self._at("log_least", timesteps)
        share = (logits + 1) / 2
        log_variance = share * most + (1 - share) * least
        drift = self._at("of_noisy", timesteps) * noisy
        true_mean = self._at("of_clean", timesteps) * clean + drift
        model_mean = self._at("of_clean", timesteps) * self.clean(noisy, predicted, timesteps) + drift
        divergence = 0.5 * (
            -1
            + log_variance
            - least
            + torch.exp(least - log_variance)
            + (true_mean - model_mean).square() * torch.exp(-log_variance)
        )
        likelihood = -log_likelihood(clean, model_mean, 0.5 * log_variance)
        found = torch.where(timesteps[:, None, None, None] == 0, likelihood, divergence)
        return found.flatten(1).mean(1) / math.log(2)


def log_likelihood(values: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """log of a normal density integrated over values +- 1/255, open-ended beyond +-0.999, element by element.

    Latents are treated as if they were pixels of eight bits here, as the published runs did; one step in a thousand.
    """
    centred, inverse = values - mean, torch.exp(-log_deviation)
    above = _normal_cdf(inverse * (centred + 1 / 255))
    below = _normal_cdf(inverse * (centred - 1 / 255))
    inside = torch.where(values > 0.999, 1 - below, above - below)
    return torch.where(values < -0.999, above, inside).clamp_min(1e-12).log()


def _normal_cdf(values: Tensor) -> Tensor:
    """The tanh approximation that the published runs used."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))


Reduction = Literal["class_extreme", "sample_mean"]
Multiplicity = Literal["once", "cumulative"]


def reduce_extremes(
    cosines: Tensor,
    counts: Tensor,
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
        cosines: (B, places).
        counts: (B, places) bool, which of them count.
        labels: (B,) int64.
        multiplicity: `cumulative`: the k-th of n classes, by label, counts n-k+1 times, as in the published code of
            self-adaptive memory, which adds its running sums to the loss inside the loop over classes.
    """
    void = torch.inf if extreme == "min" else -torch.inf
    of_sample = _extreme(cosines.masked_fill(~counts, void), 1, extreme)
    if reduction == "sample_mean":
        has, found = counts.any(1), of_sample
        number: Tensor | int = len(labels)
        weights = torch.ones_like(found)
    else:
        member = labels[:, None] == torch.arange(classes, device=labels.device)
        found = _extreme(torch.where(member, of_sample[:, None], void), 0, extreme)
        present = member.any(0)
        has = (member & counts.any(1)[:, None]).any(0)
        number = present.sum()
        weights = torch.ones_like(found) if multiplicity == "once" else number - present.cumsum(0) + 1
    # Infinities stay out of the graph: their gradient is not a number even where it is multiplied by zero.
    value = torch.where(has, found, 0.0)
    terms = torch.where(has, 1 - value if extreme == "min" else value, 0.0)
    return (weights * terms).sum() / number


def _extreme(values: Tensor, dim: int, extreme: Literal["min", "max"]) -> Tensor:
    return values.amin(dim) if extreme == "min" else values.amax(dim)


class MemoryObjective:
    """The diffusion loss plus two terms on the predicted clean latent z^ (Minimax, self-adaptive memory).

    representativeness: maximise the cosine with the least similar real latent of the class;
    diversity: minimise the cosine with the most similar earlier prediction of the class.

    A step is compared with the memories as they were before it; then its latents and predictions come in, and each
    class is brought down to its size. So no sample meets itself, and the first of a class adds nothing.
    """

    def __init__(
        self,
        plain: DiffusionLoss,
        scheduler: Any,
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
            real_latent: what the memory of real latents keeps: the sample that was trained on, or its posterior mean.
            max_timestep: beyond it predictions neither add to the terms nor enter the memory; None: all do.

        Raises:
            ValueError: `cumulative` with `sample_mean`, which has no loop over classes.
        """
        if multiplicity == "cumulative" and reduction == "sample_mean":
            raise ValueError("multiplicity: cumulative counts classes, and reduction: sample_mean has none")
        self.real, self.generated = real, generated
        self._plain, self._schedule = plain, TrainingSchedule(scheduler, real.units.device)
        self._lambdas = lambda_real, lambda_generated
        self._options: dict[str, Any] = {"reduction": reduction, "multiplicity": multiplicity}
        self._real_latent, self._max_timestep = real_latent, max_timestep

    def loss(self, step: TrainingStep) -> Tensor:
        """The loss, (); afterwards both memories hold the step."""
        loss = self._plain.loss(step)
        # Cosines are taken in fp32 whatever the network computes in.
        with torch.autocast(step.clean.device.type, enabled=False):
            found = self._schedule.clean(step.noisy.float(), step.predicted.float(), step.timesteps)
            limit = self._max_timestep
            near = torch.ones_like(step.labels, dtype=torch.bool) if limit is None else step.timesteps <= limit
            for weight, memory, extreme in zip(self._lambdas, (self.real, self.generated), ("min", "max"), strict=True):
                if weight:
                    loss = loss + weight * self._term(memory, found, step.labels, near, extreme)
            self.real.add(step.clean if self._real_latent == "sample" else step.mean, step.labels)
            self.generated.add(found.detach(), step.labels, near)
        return loss

    def _term(self, memory: LatentMemory, found: Tensor, labels: Tensor, near: Tensor, extreme: Any) -> Tensor:
        cosines, counts = memory.cosines(found, labels)
        classes = len(memory.valid)
        return reduce_extremes(cosines, counts & near[:, None], labels, classes, extreme=extreme, **self._options)

    def state(self) -> dict[str, Tensor]:
        """Both memories."""
        return {
            f"{name}/{key}": value
            for name, memory in (("real", self.real), ("generated", self.generated))
            for key, value in memory.state().items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, memory in (("real", self.real), ("generated", self.generated)):
            start = f"{name}/"
            memory.restore({key.removeprefix(start): t for key, t in tensors.items() if key.startswith(start)})


def memory_objective(
    scheduler: Any,
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
        numbers: d, how many numbers one latent has.
        options: those of `MemoryObjective`.
    """
    real, generated = (
        LatentMemory(classes, memory_size, batch, numbers, policy=policy, max_age=max_age, device=device)
        for policy in (policy_real, policy_generated)
    )
    return MemoryObjective(DiffusionLoss(scheduler, device), scheduler, real, generated, **options)
