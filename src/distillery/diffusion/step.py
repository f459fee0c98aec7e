"""A sampling step as guidances and solvers see it, and the shift along a gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distillery.diffusion.schedule import Schedule

SMALLEST_GRADIENT = 1e-12


@dataclass
class Step:
    """The state of all images at one sampling index.

    Attributes:
        index: steps-1 (pure noise) to 0.
        noisy: x_i, (N, C, H, W); a leaf with gradient if an active guidance needs the graph.
        noise: the prediction of the denoiser, after classifier-free guidance.
        clean: the clean latent that it implies; with a graph to `noisy` if a guidance needs it.
        labels: (N,) class labels.
        schedule: of the sampler.
        sigma: standard deviation of the DDPM step, (N, C, H, W) where the model learned it.
        slots: (N,) place of each image in its class, or None where nobody said it.
    """

    index: int
    noisy: Tensor
    noise: Tensor
    clean: Tensor
    labels: Tensor
    schedule: Schedule
    sigma: Tensor | float = 0.0
    slots: Tensor | None = None


def unit_step(
    gradient: Tensor, step: Step, factor: float, norm: Literal["rms_l2", "l2_l2"] = "rms_l2"
) -> tuple[Tensor, int]:
    """The shift factor * rms(eps) * g/|g| for gradients g (N, C, H, W) fp32, and how many images have none.

    An image has none where its gradient is too small or not finite. `norm` is that of the noise prediction (root mean
    square or L2) and of the gradient (L2).
    """
    length = gradient.flatten(1).norm(dim=1)
    usable = torch.isfinite(length) & (length >= SMALLEST_GRADIENT)
    noise = step.noise.detach().flatten(1).float()
    amplitude = noise.norm(dim=1) if norm == "l2_l2" else noise.square().mean(1).sqrt()
    per_image = torch.where(usable, factor * amplitude / length, 0.0)[:, None, None, None]
    return torch.where(usable[:, None, None, None], per_image * gradient, 0.0), int((~usable).sum())
