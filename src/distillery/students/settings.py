"""Settings of networks and of how they are trained and tested."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from distillery.settings import Block, Count, Fraction, Name, NonNegative, Positive
from distillery.students.names import known_network

Network = Annotated[str, AfterValidator(known_network)]


class Protocol(Block):
    """How a network is trained on a set of images, to the last constant."""

    name: Name = Field("small", description="Stands in the tables; results of different protocols never mix.")
    epochs: Count = 300
    batch_size: Count = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Positive = 2e-3
    momentum: Fraction = Field(0.9, description="Of `sgd` only.")
    weight_decay: NonNegative = 0.01
    schedule: Literal["cosine", "step", "constant"] = Field(
        "cosine", description="`step` multiplies by 0.2 after 2/3 and 5/6 of the epochs."
    )
    shift: int = Field(2, ge=0, description="Random translation of at most this many pixels, zero-padded.")
    flip: bool = Field(False, description="Horizontal mirror with probability 1/2.")
    cutmix: Fraction = Field(1.0, description="Share of the batches that CutMix acts on.")
    validate_every: Count = Field(30, description="Epochs between two looks at the test set; the last one always.")


class Reference(Block):
    """A network trained on all real training images."""

    network: Network
    training: Protocol = Protocol(
        name="reference", epochs=50, optimizer="sgd", learning_rate=0.01, weight_decay=5e-4, cutmix=0.0, shift=0
    )


class Student(Block):
    """The network that is trained on the increments so far."""

    network: Network | None = Field(None, description="None: the network of the reference.")
    start: Literal["fresh", "continued"] = "fresh"
    protocol: Protocol | None = Field(None, description="None: the protocol of the evaluation.")


class Evaluation(Block):
    """What a distilled set is worth: networks trained on it from nothing, tested on real images."""

    protocol: Protocol = Protocol()
    networks: list[Network] = Field(min_length=1)
    students: Count = Field(3, description="Networks trained per method, size and architecture.")
