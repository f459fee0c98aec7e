"""Guidance by learnability: each image is moved up the gradient of S (eq. 8 of arXiv 2604.00519)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.step import Step
from distillery.guidance.score import Scorer
from distillery.guidance.unit_step import unit_step


class LearnabilityGuidance:
    """Moves each image up S by a step whose length does not depend on the size of the gradient.

    The shift of the posterior mean is lambda * beta/sqrt(alpha) * rms(eps) * g/|g|, with g the gradient of S of the
    decoded clean latent with respect to the noisy one. In the noise prediction that is
    eps - lambda * sqrt(1 - abar) * rms(eps) * g/|g|. Printed, eq. 8 adds the gradient to the noise and takes both norms
    as L2: the one goes down S and the other moves the image many times its own length, so here the sign follows the
    text and the noise is measured by its root mean square (`norm="rms_l2"`); `direction="descend"` and `norm="l2_l2"`
    are there for the record.

    Attributes:
        skipped: images times steps whose gradient was too small or not finite, and that were not moved.
    """

    rank: ClassVar[int] = 0

    def __init__(
        self,
        scorer: Scorer,
        codec: Codec,
        *,
        strength: float,
        first: int,
        last: int,
        direction: Literal["ascend", "descend"] = "ascend",
        norm: Literal["rms_l2", "l2_l2"] = "rms_l2",
        through_denoiser: bool = True,
    ) -> None:
        self._scorer, self._codec, self._norm = scorer, codec, norm
        self._strength = strength if direction == "ascend" else -strength
        self._first, self._last, self._through = first, last, through_denoiser
        self.skipped = 0

    def active(self, index: int) -> bool:
        """Within the guided range, both ends included, unless the strength is zero."""
        return self._strength != 0 and self._first <= index <= self._last

    def needs_graph(self) -> bool:
        """Whether the gradient goes through the denoiser."""
        return self._through

    def shift(self, step: Step) -> Tensor:
        """The shift of the posterior mean, (N, C, H, W)."""
        # With the noise prediction held fixed x0 is an affine function of x, so that both gradients point the same way.
        clean = step.clean if self._through else step.clean.detach().requires_grad_(True)
        with torch.enable_grad(), torch.autocast(clean.device.type, enabled=False):
            total = self._scorer.score(self._codec.decode(clean.float()), step.labels).learnability.sum()
            gradient = torch.autograd.grad(total, step.noisy if self._through else clean, retain_graph=True)[0].float()
        factor = self._strength * step.schedule.noise_scale(step.index) * step.schedule.mean_per_noise(step.index)
        shift, skipped = unit_step(gradient, step, factor, self._norm)
        self.skipped += skipped
        return shift
