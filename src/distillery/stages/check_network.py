"""Build a network of timm for the side of its images, and pass a batch through it, before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Settings(Block):
    """What the stage depends on; `need`: the network is `trained`, `compared`, or its `features` are read."""

    network: str
    side: int
    need: str
    channels: int
    classes: int

    @classmethod
    def of(cls, experiment: Experiment, foreign: str, side: str, need: str) -> Settings:
        """The part of an experiment that this stage reads."""
        channels = 1 if experiment.dataset.channels == "grey" else 3
        return cls(network=foreign, side=int(side), need=need, channels=channels, classes=experiment.classes)


def run(settings: Settings, *, checked: Output, job: Job) -> None:
    """A name and a side to a line that says that the network takes such images."""
    from distillery.storage.atomic import write_bytes
    from distillery.students.foreign import network_fault
    from distillery.students.networks import Domain

    domain, classes = Domain(settings.side, settings.channels), [str(label) for label in range(settings.classes)]
    stateless, features = settings.need == "compared", settings.need == "features"
    if why := network_fault(settings.network, classes, domain, stateless=stateless, features=features):
        raise BadInput(f"{why}; give another network, or another side: dataset.resolution, or size of the protocol")
    write_bytes(checked, f"network,side,need\n{settings.network},{settings.side},{settings.need}\n".encode())
