"""What a denoiser is trained on: the noise or the velocity, weights by signal, and the bound of a learned variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Noised:
    """One batch on its way through the denoiser.

    Attributes:
        clean: the real latents, (N, C, H, W), scaled to unit variance.
        noise: standard normal, of the same shape.
        noisy: sqrt(abar) clean + sqrt(1 - abar) noise.
        timesteps: (N,), of the training schedule.
        level: abar of each, (N, 1, 1, 1).
        labels: (N,) positions in the class list, the true ones where the denoiser was told none.
        conditions: (N,) class indices that the denoiser is told; the null class where labels were dropped.
    """

    clean: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    level: Tensor
    labels: Tensor
    conditions: Tensor

    def target(self, prediction: PredictionType) -> Tensor:
        """What the denoiser should answer: the noise, or the velocity sqrt(abar) noise - sqrt(1 - abar) clean."""
        if prediction == "epsilon":
            return self.noise
        return self.level.sqrt() * self.noise - (1 - self.level).sqrt() * self.clean

    def to(self, device: torch.device) -> Noised:
        """All of it on a device."""
        return Noised(*(value.to(device) for value in vars(self).values()))

    def part(self, rows: slice) -> Noised:
        """Some rows of it."""
        return Noised(*(value[rows] for value in vars(self).values()))


@dataclass(frozen=True)
class Denoised:
    """What the denoiser made of a batch; an objective adds terms on it.

    Attributes:
        batch: what went in.
        output: its answer, (N, C, H, W) fp32, with gradient.
        variance: logits of a learned variance, of the same shape, or None.
        prediction: what the answer means.
        step: of the training, from 0.
    """

    batch: Noised
    output: Tensor
    variance: Tensor | None
    prediction: PredictionType
    step: int

    @property
    def noise(self) -> Tensor:
        """The noise that the answer implies."""
        return noise_of(self.output, self.batch.noisy, self.batch.level, self.prediction)

    @property
    def clean(self) -> Tensor:
        """The clean latents that the answer implies, with gradient, not clipped."""
        level = self.batch.level
        if self.prediction == "epsilon":
            return self.batch.noisy / level.sqrt() - (1 / level - 1).sqrt() * self.output
        return level.sqrt() * self.batch.noisy - (1 - level).sqrt() * self.output


def noise_of(output: Tensor, noisy: Tensor, level: Tensor | float, prediction: PredictionType) -> Tensor:
    """The noise that a denoiser's answer implies: the answer itself, or sqrt(abar) v + sqrt(1 - abar) x."""
    if prediction == "epsilon":
        return output
    signal, rest = (level**0.5, (1 - level) ** 0.5)
    return signal * output + rest * noisy


def min_snr_weights(level: Tensor, gamma: float, prediction: PredictionType) -> Tensor:
    """Weights of the squared errors, (N,): min(SNR, gamma)/SNR for noise, min(SNR, gamma)/(SNR + 1) for velocity.

    arXiv 2303.09556, with SNR = abar / (1 - abar).
    """
    ratio = (level / (1 - level)).flatten()
    return ratio.clamp(max=gamma) / (ratio if prediction == "epsilon" else ratio + 1)


def diffusion_loss(denoised: Denoised, min_snr_gamma: float | None, schedule: VarianceSchedule) -> Tensor:
    """Mean squared error of the answer, plus the bound that trains a learned variance; a scalar."""
    target = denoised.batch.target(denoised.prediction)
    if min_snr_gamma is None:
        loss = F.mse_loss(denoised.output, target)
    else:
        errors = (denoised.output - target).square().flatten(1).mean(1)
        loss = (min_snr_weights(denoised.batch.level, min_snr_gamma, denoised.prediction) * errors).mean()
    if denoised.variance is not None:
        loss = loss + schedule.bound(denoised).mean()
    return loss


class VarianceSchedule:
    """The posterior of the training schedule, at every timestep, for the bound of a learned variance."""

    def __init__(self, scheduler: Any) -> None:
        abar = scheduler.alphas_cumprod.double()
        before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
        betas = 1 - abar / before
        least = betas * (1 - before) / (1 - abar)
        least = torch.cat([least[1:2], least[1:]])  # the first is zero, and stands inside a logarithm
        self._log_most, self._log_least = betas.log().float(), least.log().float()
        self._of_clean = (before.sqrt() * betas / (1 - abar)).float()
        self._of_noisy = ((1 - betas).sqrt() * (1 - before) / (1 - abar)).float()

    def bound(self, denoised: Denoised) -> Tensor:
        """The variational bound of each image, (N,), in bits per number; it trains the variance alone.

        KL of the posterior from what the model says, for t > 0; at t = 0 the negative log-likelihood of the latents as
        if they were pixels of 8 bits, as DiT's code has it (arXiv 2102.09672). Added to the squared error unweighted.
        """
        assert denoised.variance is not None
        batch = denoised.batch
        clean = Denoised(batch, denoised.output.detach(), None, denoised.prediction, denoised.step).clean

        def at(values: Tensor) -> Tensor:
            return values.to(batch.timesteps.device)[batch.timesteps].view(-1, 1, 1, 1)

        share = (denoised.variance + 1) / 2
        least = at(self._log_least)
        log_variance = share * at(self._log_most) + (1 - share) * least
        true_mean = at(self._of_clean) * batch.clean + at(self._of_noisy) * batch.noisy
        mean = at(self._of_clean) * clean + at(self._of_noisy) * batch.noisy
        divergence = 0.5 * (
            -1
            + log_variance
            - least
            + torch.exp(least - log_variance)
            + (true_mean - mean).square() * torch.exp(-log_variance)
        )
        nats = torch.where(
            batch.timesteps.view(-1, 1, 1, 1) == 0, -_log_of_bin(batch.clean, mean, 0.5 * log_variance), divergence
        )
        return nats.flatten(1).mean(1) / math.log(2)


def _log_of_bin(values: Tensor, mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Log-probability of the bin of width 2/255 around values under a normal distribution, with open ends."""
    inverse = torch.exp(-log_deviation)
    upper = _normal_cdf(inverse * (values - mean + 1 / 255))
    lower = _normal_cdf(inverse * (values - mean - 1 / 255))
    inner = torch.where(values > 0.999, 1 - lower, upper - lower)
    return torch.where(values < -0.999, upper, inner).clamp(min=1e-12).log()


def _normal_cdf(values: Tensor) -> Tensor:
    """The approximation by tanh that DiT's code uses."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))
