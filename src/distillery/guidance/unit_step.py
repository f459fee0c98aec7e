"""A step along a gradient whose length does not depend on the size of the gradient."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from distillery.diffusion.step import Step

SMALLEST_GRADIENT = 1e-12


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
