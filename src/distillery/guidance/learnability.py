"""Learnability: what the current student has not learned and the reference finds valid.

S(x, y) = CE(student(x), y) - omega CE(reference(x), y), eq. 7 of arXiv 2604.00519; guidance by its gradient, eq. 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.sampler import Step
from distillery.students.networks import Classifier

SMALLEST_GRADIENT = 1e-12


@dataclass(frozen=True)
class Score:
    """Per image, (N,) fp32: S, both cross-entropies, the reference's probability of the label, and whether each is right."""

    learnability: Tensor
    student_loss: Tensor
    reference_loss: Tensor
    reference_probability: Tensor
    student_right: Tensor
    reference_right: Tensor


@dataclass(frozen=True)
class Scorer:
    """The two networks of S, in eval mode, and the weight omega of the reference."""

    student: Classifier
    reference: Classifier
    reference_weight: float

    def score(self, images: Tensor, labels: Tensor) -> Score:
        """Score images (N, C, H, W) in [-1, 1]; differentiable, in fp32, without augmentation."""
        with torch.autocast(images.device.type, enabled=False):
            student, reference = self.student(images.float()), self.reference(images.float())
        losses = [F.cross_entropy(logits.float(), labels, reduction="none") for logits in (student, reference)]
        return Score(
            losses[0] - self.reference_weight * losses[1],
            *losses,
            torch.exp(-losses[1]),
            student.argmax(1) == labels,
            reference.argmax(1) == labels,
        )

    @torch.no_grad()
    def score_stored(self, pixels: Tensor, labels: Tensor, batch_size: int = 256) -> Score:
        """Score stored images (N, C, H, W) uint8; the result is on the CPU."""
        device = next(self.student.parameters()).device
        parts = [
            self.score(to_unit(some.to(device)), its.to(device))
            for some, its in zip(pixels.split(batch_size), labels.split(batch_size), strict=True)
        ]
        return Score(*(torch.cat([getattr(part, name).cpu() for part in parts]) for name in Score.__annotations__))


class LearnabilityGuidance:
    """Moves each image up S by a step whose length does not depend on the size of the gradient.

    The shift of the posterior mean is lambda * beta/sqrt(alpha) * rms(eps) * g/|g|, with g the gradient of S of the
    decoded clean latent with respect to the noisy one. It is the same as eps - lambda * sqrt(1 - abar) * rms(eps) * g/|g|
    in the noise prediction. Printed, eq. 8 adds the gradient to the noise and takes both norms as L2: the one goes down S
    and the other moves the image many times its own length, so here the sign follows the text and the noise is measured
    by its root mean square (`norm="rms_l2"`); `direction="descend"` and `norm="l2_l2"` are there for the record.

    Attributes:
        skipped: images times steps whose gradient was too small or not finite, and that were not moved.
    """

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
        length = gradient.flatten(1).norm(dim=1)
        usable = torch.isfinite(length) & (length >= SMALLEST_GRADIENT)
        self.skipped += int((~usable).sum())
        noise = step.noise.detach().flatten(1).float()
        amplitude = noise.norm(dim=1) if self._norm == "l2_l2" else noise.square().mean(1).sqrt()
        factor = self._strength * step.schedule.noise_scale(step.index) * step.schedule.mean_per_noise(step.index)
        per_image = torch.where(usable, factor * amplitude / length, 0.0)[:, None, None, None]
        return torch.where(usable[:, None, None, None], per_image * gradient, 0.0)
