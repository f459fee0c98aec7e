"""Settings of what guidances are made ready with: surrogates, and the calibration of a strength."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from distillery.settings import Block, Count, Exponent, Fraction, InputPath, Name, NonNegative, Positive
from distillery.students.settings import Network, Protocol, of_reference


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
    checkpoints: InputPath | None = Field(
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
