"""What all methods that optimise images have in common: what is asked of one, and the files it is opened with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distillery.data.channels import Known
from distillery.matching.settings import Experts
from distillery.methods.base import Context, Method, Needs, Part, Trained, check_shards
from distillery.settings import Name, Shards
from distillery.students.settings import Network, Protocol, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from distillery.matching.build import Places
    from distillery.matching.networks import Comparing
    from distillery.matching.objectives import Objective
    from distillery.matching.real_images import RealImages
    from distillery.matching.spaces import Space
    from distillery.streams import Key
    from distillery.students.networks import Domain

AS_STORED = Protocol(preset="ld3m")
"""Networks that compare see images at the side of the data."""


class Matched(Method):
    """Images that are optimised size by size: snapshots, their pictures, and the chosen snapshot."""

    stage: ClassVar[str] = "match"
    nested: ClassVar[bool] = False  # every size is optimised by itself
    rate_key: ClassVar[str] = "step"
    """The key that sets how fast images change."""

    iterations: int = Field(
        1000,
        ge=0,
        le=10_000_000,
        description="Steps of the optimiser; with networks that live longer, networks. 0: images as they begin.",
    )
    network: Network | None = Field(
        None, description="The network that compares; none: that of the experts, or ConvNet-d with d = log2(side) - 2."
    )
    stream: Name | None = Field(
        None, description="Methods of one stream share initial images, networks and noise; none: the method's name."
    )
    shards: Shards = Field(1, description="Jobs that the classes are spread over, where they do not act on each other.")

    @property
    def needs(self) -> Needs:
        return Needs(experts=self.experts)

    @property
    def experts(self) -> str | None:
        """The entry of `experts` whose trajectories are matched."""
        return None

    @property
    def last_epoch(self) -> int:
        """The last epoch of its experts that is read."""
        return 0

    @property
    def couples_classes(self) -> bool:
        """Whether its networks learn from the images of all classes together."""
        return False

    @property
    def updates(self) -> int:
        """Steps of the images in one iteration."""
        return 1

    @property
    def shifts_ours(self) -> bool:
        """Whether its images are standardised with the mean of SVHN, and real ones with their own."""
        return False

    def passes(self, sizes: Sequence[float], images: float) -> float:
        """Least number of forward passes that a step takes of the network that compares; one back counts as two.

        Args:
            sizes: real images of each class.
            images: of ours.
        """
        raise NotImplementedError

    @property
    def chain_passes(self) -> int:
        """Forward passes of the generator for each image and step, where they are of its own side; 0: none are."""
        return 0

    def numbers(self, pixels: int, latents: int) -> int:
        """Least numbers that stand for an image of so many values, whose latent has so many."""
        return pixels

    def parts(self, ipc: int, sizes: Sequence[int]) -> list[Part]:
        return [Part("chosen", {"ipc": ipc})]

    def jobs(self, sizes: Sequence[int]) -> int:
        """The shards of each size, their pictures, the choice, and what collects it."""
        return 2 * (self.shards + 1) * len(sizes)

    def expert_recipe(self, experts: Mapping[str, Experts], normalization: Known) -> Recipe | None:
        """How its experts are trained, to the last epoch that it reads; None: it matches no trajectories.

        Args:
            experts: all of an experiment, by name.
            normalization: that of the data set.
        """
        return None if self.experts is None else experts[self.experts].recipe(self.last_epoch, normalization)

    def comparing_objective(
        self,
        real: RealImages,
        network: str,
        key: Key,
        device: torch.device,
        experts: Sequence[Path] = (),
        recipe: Recipe | None = None,
    ) -> Objective:
        """The objective of the method.

        Args:
            experts: files of trajectories that it may match.
            recipe: how these have to have been trained.

        Raises:
            BadInput: a network that cannot compare, or an objective without its experts, or with others.
        """
        from distillery.matching.networks import Comparing

        return self._objective(real, Comparing(network, real.classes, real.domain, device), key, experts, recipe)

    def _objective(
        self, real: RealImages, networks: Comparing, key: Key, experts: Sequence[Path], recipe: Recipe | None
    ) -> Objective:
        raise NotImplementedError

    def space(self, real: RealImages | None, places: Places, key: Key, scene: Scene) -> Space:
        """The space of the method, which starts from `real`; where that is None, it only renders states."""
        raise NotImplementedError

    def optimiser_options(self, ipc: int, side: int, classes: int) -> dict[str, Any]:
        """Rates, rule and momentum of the optimiser of images, for `ipc` images of this side per class."""
        raise NotImplementedError

    def inner_rates(self, key: str) -> str:
        """The rates of networks that learn within it in words, for the key of the method; empty where none do."""
        return ""

    def comparing(self, context: Context) -> str:
        """The network that compares: its own, that of its experts, or ConvNet-d for the side of the data."""
        experts = context.experts.get(self.experts or "")
        return self.network or (experts.network if experts else None) or context.plain_convnet

    def networks(self, key: str, context: Context) -> Iterator[Trained]:
        matching, first = context.matching, context.evaluation.protocols[0]
        yield Trained(f"{key}.network", self.comparing(context), AS_STORED, compares=True)
        if matching.choose == "best" and not matching.network:
            yield Trained(f"{key}.network", self.comparing(context), matching.protocol or first)

    def check(self, key: str, context: Context) -> Iterator[str]:
        if self.shards > 1:
            yield from check_shards(key, self.shards, len(context.class_names))
            if self.couples_classes:
                yield (
                    f"{key}.shards: networks learn from all classes together here; allowed: 1, or kind: distribution, "
                    "or kind: gradient with outer: 1"
                )


@dataclass(frozen=True)
class Scene:
    """The files and facts that a space is opened with.

    Attributes:
        classes: names, in the order of the labels.
        domain: side and channels of the images of the data, and how networks see them.
        generator, autoencoder: folders, where the method has them.
    """

    classes: Sequence[str]
    domain: Domain
    seed: int
    device: torch.device
    generator: Path | None = None
    autoencoder: Path | None = None


def last_epoch_read(methods: Mapping[str, Method], experts: str) -> int:
    """The last epoch of these experts that any method reads; 1 where none does."""
    matched = [method for method in methods.values() if isinstance(method, Matched)]
    return max([1, *(method.last_epoch for method in matched if method.experts == experts)])
