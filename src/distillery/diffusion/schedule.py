"""The noise schedule, respaced to fewer sampling steps, and the DDPM posterior on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distillery.lean_imports import from_diffusers


def training_scheduler(prediction_type: str = "epsilon") -> Any:
    """The schedule that DiT trains on: 1,000 steps, linear betas from 1e-4 to 0.02 (arXiv 2212.09748)."""
    return from_diffusers("DDPMScheduler")(
        num_train_timesteps=1000,
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        prediction_type=prediction_type,
        timestep_spacing="linspace",
        clip_sample=False,
    )


class Schedule:
    """The sampling indices i = steps-1 (pure noise) to 0, with the values of the posterior at each.

    Attributes:
        timesteps: (steps,) int64, what the denoiser is fed: round(linspace(0, T-1, steps)).
        alphas_cumprod: (steps,) float64.
        betas: (steps,) float64, respaced: 1 - abar_i / abar_{i-1}, with abar_{-1} = 1.
        variances: (steps,) float64, lower bound of the posterior variance; index 0 takes the value of index 1, which
            the learned variance needs inside its logarithm.
        config: of the scheduler that it was made from, for solvers of diffusers.
    """

    def __init__(self, scheduler: Any, steps: int) -> None:
        self.config: Any = scheduler.config
        trained = scheduler.alphas_cumprod.double()
        self.timesteps = torch.linspace(0, len(trained) - 1, steps, dtype=torch.float64).round().long()
        self.alphas_cumprod = trained[self.timesteps]
        self.alphas_cumprod_previous = torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod[:-1]])
        self.betas = 1 - self.alphas_cumprod / self.alphas_cumprod_previous
        variances = self.betas * (1 - self.alphas_cumprod_previous) / (1 - self.alphas_cumprod)
        self.variances = torch.cat([variances[1:2], variances[1:]])

    def __len__(self) -> int:
        return len(self.timesteps)

    def noise_scale(self, index: int) -> float:
        """Square root of 1 - abar at an index."""
        return float((1 - self.alphas_cumprod[index]).sqrt())

    def mean_per_noise(self, index: int) -> float:
        """By how much the posterior mean rises as the noise prediction falls: beta / sqrt(alpha (1 - abar))."""
        beta = float(self.betas[index])
        return beta / ((1 - beta) ** 0.5 * self.noise_scale(index))

    def clean(self, noisy: Tensor, noise: Tensor, index: int) -> Tensor:
        """The clean latent that a noise prediction implies: (x - sqrt(1 - abar) eps) / sqrt(abar)."""
        return (noisy - self.noise_scale(index) * noise) / float(self.alphas_cumprod[index].sqrt())

    def posterior_mean(self, clean: Tensor, noisy: Tensor, index: int) -> Tensor:
        """Mean of q(x_{i-1} | x_i, x_0)."""
        before, now, beta = (
            float(values[index]) for values in (self.alphas_cumprod_previous, self.alphas_cumprod, self.betas)
        )
        return (before**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - before) * noisy) / (1 - now)

    def back(self, earlier: Tensor, fresh: Tensor, index: int) -> Tensor:
        """A state of q(x_i | x_{i-1}): the state at the next lower index, noised as far as this one."""
        beta = float(self.betas[index])
        return (1 - beta) ** 0.5 * earlier + beta**0.5 * fresh

    def sigma(self, variance_logits: Tensor | None, index: int) -> Tensor | float:
        """Standard deviation of a step: by the model's variance logits, or the lower bound without them."""
        low = float(self.variances[index])
        if variance_logits is None:
            return low**0.5
        share = (variance_logits + 1) / 2
        most, least = float(self.betas[index].log()), float(self.variances[index].log())
        return torch.exp(0.5 * (share * most + (1 - share) * least))
