"""Settings of the analyses of learnability-guided diffusion (arXiv 2604.00519, figures 4 to 6)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from distillery.settings import Block, Epochs, Fraction, Images, Name, Repeats
from distillery.students.settings import Network

_BASELINE = "The method that the others are compared with, seed by seed; it has to be one of `methods`."
_NETWORK = "None: the first network of the evaluation."


class IncrementalDynamics(Block):
    """The loss of a student that goes on from increment to increment, and how it rises with each (fig. 4, table 4)."""

    methods: list[Name] = Field(
        min_length=1, description="Sets whose slots are no increments and no independent draws are cut at random."
    )
    baseline: Name | None = Field(None, description=_BASELINE)
    increment_size: Images = Field(10, description="Images per class in one increment.")
    epochs: Epochs = Field(
        300, description="Of each increment: the optimiser starts anew, and the learning rate decays over them."
    )
    looks: Repeats = Field(30, description="How often the loss is measured in an increment, beside its beginning.")
    network: Network | None = Field(None, description=_NETWORK)
    students: Repeats = Field(3, description="Networks per method and seed.")


class Thresholds(Block):
    """Which images count as easy, hard and informative, by mean and standard deviation of their probability."""

    easy: Fraction = Field(0.75, description="Easy from this mean on, if the deviation lies below `informative`.")
    hard: Fraction = Field(0.35, description="Hard up to this mean, if the deviation lies below `informative`.")
    informative: Fraction = Field(0.2, description="Informative from this standard deviation on.")

    @model_validator(mode="after")
    def _apart(self) -> Thresholds:
        if self.hard >= self.easy:
            raise ValueError(f"hard: {self.hard} does not lie below easy, {self.easy}; give a smaller one")
        return self


class LearningDynamics(Block):
    """Mean and standard deviation of the label's probability over a training, image by image (fig. 5)."""

    methods: list[Name] = Field(min_length=1, description="Their largest sets stand beside the original images.")
    baseline: Name | None = Field(None, description=_BASELINE)
    train_on: Literal["original", "own"] = Field(
        "original", description="One training on the original images records all sets, or each set its own training."
    )
    epochs: Epochs = Field(50, description="Of that training; the probability is recorded after each.")
    network: Network | None = Field(None, description=_NETWORK)
    students: Repeats = Field(1, description="Networks per seed.")
    thresholds: Thresholds = Thresholds()


class Validity(Block):
    """Probability by the reference against the loss of the student, of candidates and of the chosen (fig. 6)."""

    methods: list[Name] = Field(min_length=1, description="Methods of kind `lgd`; one without reference term too.")
    baseline: Name | None = Field(None, description=_BASELINE)
    judge: Name | None = Field(
        None, description="A network of `references` that took no part, which is asked too: guidance rewards the other."
    )
