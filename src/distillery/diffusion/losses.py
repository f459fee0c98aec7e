"""What a denoiser is trained on: the noise or the velocity, weights by signal, and the bound of a learned variance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Noised:
    """One batch on its way into the denoiser.

    Attributes:
        clean: the latents that were noised, (B, C, H, W), of unit variance; `mean` those of the autoencoder's posterior
            without its noise.
        noise: standard normal, of the same shape.
        noisy: sqrt(abar) clean + sqrt(1 - abar) noise.
        timesteps: (B,), of the training schedule.
        alpha_cumprod: cumulative alpha product (abar) of each, (B, 1, 1, 1).
        labels: (B,) positions in the class list, the true ones also of samples whose label was dropped.
        conditions: (B,) class indices that the denoiser is told; the null class where labels were dropped.
    """

    clean: Tensor
    mean: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    alpha_cumprod: Tensor
    labels: Tensor
    conditions: Tensor

    def to(self, device: torch.device) -> Noised:
        """All of it on a device."""
        return Noised(*(value.to(device) for value in vars(self).values()))

    def part(self, rows: slice) -> Noised:
        """Some rows of it."""
        return Noised(*(value[rows] for value in vars(self).values()))

    def answered(self, output: Tensor, prediction: PredictionType, number: int) -> TrainingStep:
        """The batch with the denoiser's answer."""
        return TrainingStep(**vars(self), output=output, prediction=prediction, number=number)


@dataclass(frozen=True)
class TrainingStep(Noised):
    """A batch and what the denoiser makes of it, which an objective looks at.

    Attributes:
        output: the answer, (B, C, H, W), or (B, 2C, H, W) where the model learns its variance; fp32, with gradient.
        prediction: what the answer means.
        number: of the step, from 0.
    """

    output: Tensor
    prediction: PredictionType
    number: int

    @property
    def answer(self) -> Tensor:
        """The answer without the channels of the variance, (B, C, H, W)."""
        return self.output[:, : self.noise.shape[1]]

    @property
    def variance_logits(self) -> Tensor | None:
        """(B, C, H, W), or None where the variance is not learned."""
        channels = self.noise.shape[1]
        return self.output[:, channels:] if self.output.shape[1] > channels else None

    @property
    def target(self) -> Tensor:
        """What the answer should be: the noise, or the velocity sqrt(abar) noise - sqrt(1 - abar) clean."""
        if self.prediction == "epsilon":
            return self.noise
        return self.alpha_cumprod.sqrt() * self.noise - (1 - self.alpha_cumprod).sqrt() * self.clean

    @property
    def predicted(self) -> Tensor:
        """The noise that the answer implies, (B, C, H, W)."""
        return noise_of(self.answer, self.noisy, self.alpha_cumprod, self.prediction)

    @property
    def predicted_clean(self) -> Tensor:
        """The clean latents that the answer implies, (B, C, H, W), with gradient, not clipped."""
        return self.clean_of(self.answer)

    def clean_of(self, answer: Tensor) -> Tensor:
        """The clean latents that any answer to this batch implies."""
        if self.prediction == "epsilon":
            return self.noisy / self.alpha_cumprod.sqrt() - (1 / self.alpha_cumprod - 1).sqrt() * answer
        return self.alpha_cumprod.sqrt() * self.noisy - (1 - self.alpha_cumprod).sqrt() * answer


class TrainingObjective(Protocol):
    """The loss of a step, and what it has to remember from one step to the next.

    Attributes:
        terms: of the last loss, () each, for a history.
    """

    terms: dict[str, Tensor]

    def loss(self, step: TrainingStep) -> Tensor:
        """The loss, (); what is remembered takes the step in, after the loss is computed."""
        ...

    def summary(self) -> str:
        """What is remembered, for a log; empty where nothing is."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        ...

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `state_dict` gave."""
        ...


def noise_of(output: Tensor, noisy: Tensor, alpha_cumprod: Tensor | float, prediction: PredictionType) -> Tensor:
    """The noise that a denoiser's answer implies: the answer itself, or sqrt(abar) v + sqrt(1 - abar) x."""
    if prediction == "epsilon":
        return output
    signal, rest = (alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5)
    return signal * output + rest * noisy


def min_snr_weights(alpha_cumprod: Tensor, gamma: float, prediction: PredictionType) -> Tensor:
    """Weights of the squared errors, (N,): min(SNR, gamma)/SNR for noise, min(SNR, gamma)/(SNR + 1) for velocity.

    arXiv 2303.09556, with SNR = abar / (1 - abar).
    """
    ratio = (alpha_cumprod / (1 - alpha_cumprod)).flatten()
    return ratio.clamp(max=gamma) / (ratio if prediction == "epsilon" else ratio + 1)


class DiffusionLoss:
    """Squared error of the answer, weighted by signal if asked for, plus the bound where the variance is learned."""

    def __init__(self, scheduler: Any, device: torch.device, min_snr_gamma: float | None = None) -> None:
        self._schedule, self._gamma = VarianceSchedule(scheduler, device), min_snr_gamma
        self.terms: dict[str, Tensor] = {}

    def loss(self, step: TrainingStep) -> Tensor:
        if self._gamma is None:
            loss = F.mse_loss(step.answer, step.target)
        else:
            errors = (step.answer - step.target).square().flatten(1).mean(1)
            loss = (min_snr_weights(step.alpha_cumprod, self._gamma, step.prediction) * errors).mean()
        if step.variance_logits is None:
            return loss
        bound = self._schedule.bound(step).mean()
        self.terms = {"squared_error": loss.detach(), "variational_bound": bound.detach()}
        return loss + bound

    def summary(self) -> str:
        return ""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is remembered."""


class VarianceSchedule:
    """The posterior of the training schedule, at every timestep, for the bound of a learned variance."""

    def __init__(self, scheduler: Any, device: torch.device) -> None:
        alphas_cumprod = scheduler.alphas_cumprod.double()
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1]])
        betas = 1 - alphas_cumprod / before
        least = betas * (1 - before) / (1 - alphas_cumprod)
        least = torch.cat([least[1:2], least[1:]])  # the first is zero, and stands inside a logarithm
        constants = {
            "log_most": betas.log(),
            "log_least": least.log(),
            "of_clean": before.sqrt() * betas / (1 - alphas_cumprod),
            "of_noisy": (1 - betas).sqrt() * (1 - before) / (1 - alphas_cumprod),
        }
        self._constants = {name: value.float().to(device) for name, value in constants.items()}

    def bound(self, step: TrainingStep) -> Tensor:
        """The variational bound of each image, (N,), in bits per number; it trains the variance alone.

        KL of the posterior from what the model says, for t > 0; at t = 0 the negative log-likelihood of the latents as
        if they were pixels of 8 bits, as DiT's code has it (arXiv 2102.09672). Added to the squared error unweighted.
        """
        logits = step.variance_logits
        assert logits is not None
        clean = step.clean_of(step.answer.detach())
        most, least, of_clean, of_noisy = (
            self._constants[name][step.timesteps].view(-1, 1, 1, 1)
            for name in ("log_most", "log_least", "of_clean", "of_noisy")
        )
        share = (logits + 1) / 2
        log_variance = share * most + (1 - share) * least
        true_mean = of_clean * step.clean + of_noisy * step.noisy
        mean = of_clean * clean + of_noisy * step.noisy
        divergence = 0.5 * (
            -1
            + log_variance
            - least
            + torch.exp(least - log_variance)
            + (true_mean - mean).square() * torch.exp(-log_variance)
        )
        nats = torch.where(
            step.timesteps.view(-1, 1, 1, 1) == 0, -_log_of_bin(step.clean, mean, 0.5 * log_variance), divergence
        )
        return nats.flatten(1).mean(1) / math.log(2)


def _log_of_bin(values: Tensor, mean: Tensor, log_sigma: Tensor) -> Tensor:
    """Log-probability of the bin of width 2/255 around values under a normal distribution, with open ends."""
    inverse = torch.exp(-log_sigma)
    upper = _normal_cdf(inverse * (values - mean + 1 / 255))
    lower = _normal_cdf(inverse * (values - mean - 1 / 255))
    inner = torch.where(values > 0.999, 1 - lower, upper - lower)
    return torch.where(values < -0.999, upper, inner).clamp(min=1e-12).log()


def _normal_cdf(values: Tensor) -> Tensor:
    """The approximation by tanh that DiT's code uses."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)))
