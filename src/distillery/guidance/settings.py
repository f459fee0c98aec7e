"""Settings of what steers a sampler, and of its calibration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from distillery.settings import Block, Count, Fraction, Name, NonNegative, Positive


def _ascending(indices: list[int]) -> list[int]:
    if indices[0] > indices[1]:
        raise ValueError(f"the first index, {indices[0]}, lies above the last, {indices[1]}")
    return indices


Range = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class Learnability(Block):
    """Guidance by S = CE(student) - w CE(reference) (eqs. 7 and 8 of arXiv 2604.00519)."""

    strength: NonNegative | Literal["auto"] = Field("auto", description="Lambda; `auto`: `calibrate_guidance` chooses.")
    reference_weight: NonNegative | Literal["auto"] = Field(0.5, description="Omega; `auto`: calibrated too.")
    range: Range | None = Field(
        None, description="First and last guided sampling index; none: 10 to 45 of 50, scaled to the steps."
    )
    direction: Literal["ascend", "descend"] = "ascend"
    norm: Literal["rms_l2", "l2_l2"] = Field("rms_l2", description="Norms of the noise and of the gradient.")
    through_denoiser: bool = Field(True, description="False: the noise prediction is held fixed.")


class Deviation(Block):
    """Guidance away from the latents that the class already has (eq. 9 of arXiv 2604.00519)."""

    strength: NonNegative | Literal["auto"] = Field("auto", description="Gamma; `auto`: 50 d / 4096, d = latent size.")
    range: Range | None = Field(None, description="None: that of learnability.")
    on: Literal["x0", "xt", "x0_chain"] = "x0"
    memory: Literal["all", "increment"] = "all"
    capacity: Count | None = Field(None, description="Newest latents kept per class; none: all.")


class Calibration(Block):
    """The pilot that chooses lambda, and omega where it is `auto`."""

    images: Count = 100
    relative_strengths: list[Positive] = Field(
        [1 / 64, 1 / 32, 1 / 16, 1 / 8, 15 / 64], min_length=1, description="Lambda over the square root of d."
    )
    reference_weights: list[NonNegative] = Field([0.5, 1.0, 2.0, 3.0], min_length=1)
    validity: Fraction = 0.90
    margin: Fraction = Field(0.05, description="Validity may fall this much below that of plain sampling.")
    judge: Name | None = Field(None, description="A name of `references`; none: the reference of the method.")
    aim: Literal["overlap", "accuracy"] = "overlap"
