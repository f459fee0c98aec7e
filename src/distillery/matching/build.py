"""The images that are optimised, where they start, and the objective of a block of settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from distillery.data.pixels import scaled
from distillery.diffusion.autoencoder import Codec
from distillery.errors import BadInput
from distillery.matching.chain import Picture
from distillery.matching.experts import Trajectories, wanted_of
from distillery.matching.generator import FrozenGenerator
from distillery.matching.networks import Comparing
from distillery.matching.objectives import DistributionMatching, GradientMatching, Objective
from distillery.matching.real_images import RealImages
from distillery.matching.settings import AnyObjective, Chain, Distribution, Gradient, Trajectory
from distillery.matching.spaces import ChainSpace
from distillery.matching.trajectory import TrajectoryMatching
from distillery.streams import Key, image_noise, stream
from distillery.students.settings import Recipe


@dataclass(frozen=True)
class Places:
    """The images that are made: a place in a class each, class by class.

    Attributes:
        labels: (N,) int64, positions in the class names.
        slots: (N,) int64.
        keys: of each image's random stream.
    """

    labels: Tensor
    slots: Tensor
    keys: list[Key]

    @classmethod
    def of(cls, key: Key, classes: Sequence[str], labels: Sequence[int], ipc: int) -> Places:
        """So many places in each of these classes."""
        places = [(label, slot) for label in labels for slot in range(ipc)]
        return cls(
            torch.tensor([label for label, _ in places]),
            torch.tensor([slot for _, slot in places]),
            [(*key, classes[label], slot) for label, slot in places],
        )

    @property
    def ipc(self) -> int:
        """Images of each class."""
        return int(self.slots.max()) + 1


@torch.no_grad()
def initial_latents(
    init: Literal["real", "gaussian"],
    real: RealImages | None,
    places: Places,
    codec: Codec,
    side: int,
    key: Key,
    *,
    batch: int,
    device: torch.device,
) -> Tensor:
    """(N, C, h, w) fp32 in scaled units: encoded real images of the classes, enlarged to `side`, or N(0, 1).

    Without real images they are zeros, for a space that only renders states. `batch` images are encoded at once.
    """
    size = codec.latent_size(side)
    if real is None:
        return torch.zeros(len(places.keys), codec.channels, size, size, device=device)
    if init == "gaussian":
        return image_noise(places.keys, "initial", (codec.channels, size, size)).to(device)
    batches = initial_images(real, places, key).split(batch)
    # Encoders take [-1, 1], never what networks see.
    return torch.cat([codec.encode(2 * scaled(images, side) - 1)[0] for images in batches])


def initial_images(real: RealImages, places: Places, key: Key) -> Tensor:
    """Different real images of each class to start from, (N, channels, H, W) fp32 in [0, 1]."""
    rows = []
    for label in places.labels.unique().tolist():
        draws = stream(*key, "initial", real.classes[label])
        rows.append(real.first_images(label, places.ipc, draws))
    return real.pixels[torch.cat(rows)].to(torch.float32) / 255


def chain_space(
    generator: FrozenGenerator,
    chain: Chain,
    learn: Sequence[Literal["latent", "condition"]],
    places: Places,
    latents: Tensor,
    *,
    resolution: int,
    micro_batch: int,
    device: torch.device,
) -> ChainSpace:
    """Latents and class vectors, rendered by a generator; those in `learn` are optimised.

    Raises:
        BadInput: class vectors of a generator without classes.
    """
    shape = tuple(latents.shape[1:])
    fixed = image_noise(places.keys, "noise", shape).to(device)

    def noise(step: int) -> Tensor:
        return fixed if chain.noise == "fixed" else image_noise(places.keys, step, shape).to(device)

    vectors = generator.vectors(places.labels, chain.condition)
    if vectors is None and "condition" in learn:
        raise BadInput("learn: condition, and the generator knows no classes; allowed: [latent]")
    return ChainSpace(
        generator.chain(chain),
        Picture(generator.codec, resolution),
        latents,
        None if vectors is None else vectors.to(device),
        noise,
        learn=frozenset(learn),
        micro_batch=micro_batch,
    )


@singledispatch
def objective_of(
    block: AnyObjective,
    real: RealImages,
    networks: Comparing,
    key: Key,
    *,
    experts: Sequence[Path],
    recipe: Recipe | None,
    gradient: Literal["tesla", "exact"],
) -> Objective:
    """The objective of a block of settings.

    Args:
        experts: files of trajectories.
        recipe: how these have to have been trained, to the last epoch that is read.
        gradient: the default of how trajectories are differentiated.

    Raises:
        BadInput: an objective without its experts, or with others.
    """
    raise TypeError(f"{type(block).__name__}: no objective")


@objective_of.register
def _(block: Gradient, real: RealImages, networks: Comparing, key: Key, **_: Any) -> Objective:
    return GradientMatching(real, networks, key, **block.model_dump(exclude={"kind"}))


@objective_of.register
def _(block: Distribution, real: RealImages, networks: Comparing, key: Key, **_: Any) -> Objective:
    return DistributionMatching(real, networks, key, **block.model_dump(exclude={"kind"}))


@objective_of.register
def _(block: Trajectory, real: RealImages, networks: Comparing, key: Key, **about: Any) -> Objective:
    if not about["experts"] or about["recipe"] is None:
        raise BadInput("objective: trajectories are matched, and there are no experts; name one of experts")
    trajectories = Trajectories(about["experts"], wanted_of(networks.name, real, about["recipe"]))
    options = block.model_dump(exclude={"kind", "experts"})
    return TrajectoryMatching(
        real, networks, trajectories, key, **{**options, "gradient": block.gradient or about["gradient"]}
    )
