"""What guidances and solvers see of a sampling step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from distillery.diffusion.schedule import Schedule


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
