"""Settings of what guidances are made ready with: surrogates, and the calibration of a strength."""

from __future__ import annotations

import itertools
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from distillery.settings import Block, Count, Exponent, Fraction, InputPath, Name, NonNegative, Positive, Repeats
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
    """The pilot that chooses lambda, and omega where it is `auto`.

    It raises lambda until the judge no longer recognises enough images, or (`aim: accuracy`) until the accuracy of
    students on validation images falls.
    """

    images: Count | None = Field(
        None,
        description="Images of one measured setting, spread over at most 100 classes; none: as many as the budget "
        "allows, 20 at least and 100 at most.",
    )
    relative_strengths: list[Positive] = Field(
        [1 / 64, 1 / 32, 1 / 16, 1 / 8, 15 / 64], min_length=1, description="Lambda over the square root of d."
    )
    extend: bool = Field(
        True, description="Whether larger strengths follow the last one, by its factor, while they are valid."
    )
    reference_weights: list[NonNegative] = Field(
        [0.5, 1.0, 2.0, 3.0], min_length=1, description="Values of omega that are compared where it is `auto`."
    )
    mode_strengths: list[NonNegative] = Field(
        [], description="Values of guidance.mode.strength that are compared; none: the one of the method."
    )
    mode_stops: list[Annotated[int, Field(ge=0, le=10_000_000)]] = Field(
        [], description="Values of guidance.mode.stop that are compared; none: the one of the method."
    )
    validity: Fraction = Field(0.90, description="Share of the pilot that the judge must recognise.")
    margin: Fraction = Field(0.05, description="Validity may fall this much below that of images without learnability.")
    judge: Name | None = Field(None, description="A name of `references`; none: the reference of the method.")
    aim: Literal["overlap", "accuracy"] = Field(
        "overlap",
        description="The choice among valid settings: the one whose images the student knows least, or the one whose "
        "students are most accurate on the images of dataset.validation.",
    )
    students: Repeats = Field(2, description="Networks per setting that `aim: accuracy` trains.")
    most_settings: Repeats = Field(
        8, description="Settings that are measured at most, those without learnability and confirmations among them."
    )
    budget: Positive = Field(
        0.25,
        description="Images of all these settings, as a share of the guided images of the loop: a pilot whose `images` "
        "take more is refused.",
    )

    @property
    def modes(self) -> list[tuple[float | None, int | None]]:
        """Strength and stop of mode guidance, for every pair that is compared; None: that of the method."""
        strengths: list[float | None] = [*self.mode_strengths] or [None]
        stops: list[int | None] = [*self.mode_stops] or [None]
        return list(itertools.product(strengths, stops))
