"""Guidance by learnability: each image is moved up the gradient of S (eq. 8 of arXiv 2604.00519)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field

from distillery.guidance.base import GuidanceContext, Passes, Range, RangedBlock, RangedGuidance, Scene
from distillery.settings import Images, NonNegative

if TYPE_CHECKING:
    from torch import Tensor

    from distillery.diffusion.autoencoder import Codec
    from distillery.diffusion.step import Step
    from distillery.guidance.score import Scorer


def _by_increment(strength: object) -> object:
    """Refuse a mapping that says nothing of increment 2, or leaves a strength to a pilot."""
    if not isinstance(strength, Mapping):
        return strength
    if "auto" in strength.values():
        raise ValueError("'auto' in a mapping: a pilot measures one strength; give numbers, or auto alone")
    numbers = [int(key) for key in strength if str(key).isdecimal()]
    if numbers and min(numbers) > 2:
        raise ValueError(f"the first increment is {min(numbers)}, so increment 2 has no strength; begin with 2")
    return strength


Increment = Annotated[
    Images,
    BeforeValidator(lambda key: int(key) if isinstance(key, str) and key.isdecimal() else key),  # as JSON has keys
]
Strengths = Annotated[dict[Increment, NonNegative], Field(min_length=1)]


class Learnability(RangedBlock):
    """Guidance by S = CE(students) - w CE(reference) (eqs. 7 and 8 of arXiv 2604.00519)."""

    strength: Annotated[NonNegative | Literal["auto"] | Strengths, BeforeValidator(_by_increment)] = Field(
        "auto",
        description="Lambda: a number, `auto` (`calibrate_guidance` chooses), or {from this increment on: number}.",
    )
    reference_weight: NonNegative | Literal["auto"] = Field(0.5, description="Omega; `auto`: calibrated too.")
    range: Range | None = Field(
        None, description="First and last guided sampling index; none: 10 to 45 of 50, scaled to the steps."
    )
    direction: Literal["ascend", "descend"] = "ascend"
    norm: Literal["rms_l2", "l2_l2"] = Field("rms_l2", description="Norms of the noise and of the gradient.")
    through_denoiser: bool = Field(True, description="False: the noise prediction is held fixed.")

    def passes(self, kept: int) -> Passes:
        return Passes(denoiser=1.0 if self.through_denoiser else 0.0, decoder=2.0, scorer=2.0)

    def check(self, key: str, context: GuidanceContext) -> Iterator[str]:
        if not context.increments:
            yield (
                f"{key}: asks the student of the increments before, and this kind of method makes no increments; "
                "leave it out, or take kind: lgd"
            )
        yield from super().check(key, context)
        if self.reference_weight == "auto" and self.strength == 0:
            yield f"{key}.reference_weight: nothing to calibrate at strength 0; give a number"
        if self.reference_weight == "auto" and isinstance(self.strength, dict):
            yield f"{key}.reference_weight: a pilot measures one strength, and strength is a mapping; give a number"

    def at_increment(self, k: int) -> Self:
        if not isinstance(self.strength, dict):
            return self
        start = max((first for first in self.strength if first <= k), default=min(self.strength))
        return self.model_copy(update={"strength": self.strength[start]})

    @property
    def resolved_strength(self) -> float | Literal["auto"]:
        """The strength, of settings that are of one increment."""
        assert not isinstance(self.strength, dict), "`at_increment` gives the settings of an increment"
        return self.strength

    def open(self, files: Sequence[Path], scene: Scene) -> LearnabilityGuidance | None:
        if self.strength == 0:
            return None
        strength = self.resolved_strength
        assert scene.scorer is not None and strength != "auto"
        return LearnabilityGuidance(
            scene.scorer,
            scene.renderer.guidance_codec or scene.renderer.codec,
            strength=strength,
            **self.indices,
            direction=self.direction,
            norm=self.norm,
            through_denoiser=self.through_denoiser,
        )


@dataclass
class LearnabilityGuidance(RangedGuidance):
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
    scorer: Scorer
    codec: Codec
    direction: Literal["ascend", "descend"] = "ascend"
    norm: Literal["rms_l2", "l2_l2"] = "rms_l2"
    through_denoiser: bool = True
    skipped: int = 0

    def needs_graph(self) -> bool:
        return self.through_denoiser

    def shift(self, step: Step) -> Tensor:
        import torch

        from distillery.diffusion.step import unit_step

        # With the noise prediction held fixed x0 is an affine function of x, so that both gradients point the same way.
        clean = step.clean if self.through_denoiser else step.clean.detach().requires_grad_(True)
        with torch.enable_grad(), torch.autocast(clean.device.type, enabled=False):
            total = self.scorer.score(self.codec.decode(clean.float()), step.labels).learnability.sum()
            source = step.noisy if self.through_denoiser else clean
            gradient = torch.autograd.grad(total, source, retain_graph=True)[0].float()
        factor = self.strength * step.schedule.noise_scale(step.index) * step.schedule.mean_per_noise(step.index)
        signed = factor if self.direction == "ascend" else -factor
        shift, skipped = unit_step(gradient, step, signed, self.norm)
        self.skipped += skipped
        return shift
