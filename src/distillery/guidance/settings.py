"""Settings of what steers a sampler, and of its calibration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from distillery.settings import Block, Count, Exponent, Fraction, Name, NonNegative, Positive
from distillery.students.settings import Network, Protocol, of_reference


def _ascending(indices: list[int]) -> list[int]:
    if indices[0] > indices[1]:
        raise ValueError(f"the first index, {indices[0]}, lies above the last, {indices[1]}")
    return indices


PUBLISHED_DEVIATION = {"igd": 120.0, "lgd": 50.0, "mgd3": 50.0}
"""Gamma of each kind of method at latents of 4096 numbers; MGD3 has none of its own, and takes that of LGD."""

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


class Influence(Block):
    """Guidance towards images whose parameter gradient points where that of their real class does (IGD, eq. 7)."""

    surrogate: Name = Field(description="A name of `surrogates`: whose gradients are compared.")
    strength: NonNegative | Literal["auto"] = Field(
        "auto", description="k; `auto`: 5 sqrt(d / 4096), d = latent size. 10 was published on Minimax."
    )
    range: Range | None = Field(
        None, description="First and last guided sampling index; none: 30 to 45 of 50, scaled to the steps."
    )
    repeats: Count = Field(
        1, description="Times that a guided step is taken, with noise back to its beginning in between; 1 is published."
    )
    per_image: Literal["vmap", "loop"] = Field(
        "vmap", description="Gradients of all images at once, or one image after another in a little less memory."
    )


class Mode(Block):
    """Guidance of each image towards one mode of its class (MGD3, arXiv 2505.18963)."""

    strength: NonNegative = Field(0.1, description="Lambda; free of the latent's size.")
    stop: Annotated[int, Field(ge=0)] | None = Field(
        None, description="It acts at indices above this one; none: 25 of 50, scaled to the steps."
    )
    count: Count | None = Field(
        None, description="Modes per class; none: one per image, for kind mgd3 discovered anew for every size."
    )
    discovery: Literal["centroid", "nearest", "random"] = Field(
        "centroid", description="Means of k-means clusters, the latents closest to them, or latents at random."
    )
    pool: Count | None = Field(None, description="Side that latents are pooled to before k-means; none: not at all.")
    seed: int = Field(0, ge=0, description="Of k-means, and of the latents at random.")


class Surrogate(Block):
    """The network whose gradients stand for learning (IGD): trained on all images with every epoch kept."""

    network: Network
    training: Annotated[Protocol, BeforeValidator(of_reference)] = Protocol(preset="reference")
    threshold: Annotated[float, Field(ge=-1, le=1), Exponent] = Field(
        0.7, description="A checkpoint is kept where the cosine with the last kept one, mean over classes, is below it."
    )
    keep: list[Annotated[int, Field(ge=0)]] | None = Field(
        None, min_length=1, description="Numbers of the checkpoints to keep, 0 = before training; none: by threshold."
    )
    gradient_images: Count = Field(200, description="Real images per class that a class gradient is the mean of.")
    checkpoints: str | None = Field(
        None, description="None: trained here. A path: a file of `train_surrogate`, of the same classes."
    )


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


class _Guided(Block):
    """What the kinds of guided sampling have in common."""

    generator: Name
    stream: str | None = Field(
        None, description="Methods of one stream share all their noise; none: the method's name."
    )
    shards: Count = Field(1, description="Jobs that the classes are spread over.")


class IGD(_Guided):
    """Influence-guided diffusion (ICLR 2025, OpenReview 0whx8MhysK): influence and deviation, nested over sizes."""

    kind: Literal["igd"]
    influence: Influence
    deviation: Deviation = Field(
        Deviation(capacity=64),
        description="`auto`: gamma = 120 d / 4096; range none: that of influence; capacity: 64 unless given.",
    )
    mode: Mode | None = Field(None, description="Modes as a third guidance.")

    @field_validator("deviation")
    @classmethod
    def _remembers_64(cls, deviation: Deviation) -> Deviation:
        """As published, unless the file says otherwise."""
        said = "capacity" in deviation.model_fields_set
        return deviation if said else deviation.model_copy(update={"capacity": 64})


class MGD3(_Guided):
    """Mode-guided diffusion (arXiv 2505.18963): every image is drawn towards a mode of its own.

    Without `mode.count` the modes are discovered for every size, and sizes are not nested.
    """

    kind: Literal["mgd3"]
    mode: Mode = Mode()
    influence: Influence | None = Field(None, description="Influence as a second guidance.")
    deviation: Deviation | None = Field(None, description="Deviation as a further guidance; range none: that of mode.")
