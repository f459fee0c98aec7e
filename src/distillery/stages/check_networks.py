"""Build each network of timm that the experiment names, and pass a batch of its images through it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillery.errors import BadInput
from distillery.job import Job, Output
from distillery.settings import Block

if TYPE_CHECKING:
    from distillery.plan.experiment import Experiment

COMPUTES = False


class Named(Block):
    """A network and what it has to do; `keys` name it in the experiment file."""

    keys: list[str]
    network: str
    side: int
    stateless: bool
    features: bool


class Settings(Block):
    """What the stage depends on."""

    networks: list[Named]
    channels: int
    classes: int

    @classmethod
    def of(cls, experiment: Experiment) -> Settings:
        """The part of an experiment that this stage reads."""
        wanted: dict[tuple[str, int, bool, bool], list[str]] = {}
        with_features = experiment.references_with_features
        for trained in experiment.foreign_networks:
            side = trained.protocol.side(experiment.classes) or experiment.dataset.resolution
            need = (trained.network, side, trained.compares, trained.key in with_features)
            wanted.setdefault(need, []).append(trained.key)
        return cls(
            networks=[
                Named(keys=sorted(set(keys)), network=network, side=side, stateless=stateless, features=features)
                for (network, side, stateless, features), keys in sorted(wanted.items())
            ],
            channels=1 if experiment.dataset.channels == "grey" else 3,
            classes=experiment.classes,
        )


def run(settings: Settings, *, checked: Output, job: Job) -> None:
    """Names and sides of networks to a table of those that can be trained; one that cannot ends the run."""
    from distillery.storage.atomic import write_bytes
    from distillery.students.foreign import network_fault
    from distillery.students.networks import Domain

    faults, lines = [], ["network,side"]
    for named in settings.networks:
        domain = Domain(named.side, settings.channels)
        classes = [str(label) for label in range(settings.classes)]
        if why := network_fault(named.network, classes, domain, stateless=named.stateless, features=named.features):
            faults.append(f"{', '.join(named.keys)}: {why}; give another network, or another side of the images")
        lines.append(f"{named.network},{named.side}")
    if faults:
        raise BadInput("\n".join(faults))
    write_bytes(checked, ("\n".join(lines) + "\n").encode())
