"""From files and settings to a space, an objective and an optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.data.pixels import scaled
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.renderer import codec_of
from distillery.errors import BadInput
from distillery.matching.chain import Picture
from distillery.matching.experts import Trajectories, wanted_of
from distillery.matching.generator import FrozenGenerator, open_generator
from distillery.matching.idc import IDCMatching
from distillery.matching.networks import Comparing
from distillery.matching.objectives import DistributionMatching, GradientMatching, Objective
from distillery.matching.real_images import RealImages
from distillery.matching.settings import IDC, LD3M, Distribution, Gradient, Latent, Matched, Pixels, Trajectory
from distillery.matching.spaces import ChainSpace, LatentSpace, PixelSpace, Space, Tensors, UnitPixels
from distillery.matching.steps import Optimiser
from distillery.matching.trajectory import TrajectoryMatching
from distillery.streams import Key, image_noise, stream
from distillery.students.networks import Domain


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


# ---- spaces ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def initial_latents(
    method: LD3M | Latent, real: RealImages, places: Places, codec: Codec, side: int, key: Key, device: torch.device
) -> Tensor:
    """(N, C, h, w) fp32 in scaled units: encoded real images of the classes, enlarged to `side`, or N(0, 1)."""
    if method.init == "gaussian":
        size = codec.latent_size(side)
        return image_noise(places.keys, "initial", (codec.channels, size, size)).to(device)
    batches = initial_images(real, places, key).split(method.micro_batch)
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
    generator: FrozenGenerator, method: LD3M, places: Places, latents: Tensor, resolution: int, device: torch.device
) -> ChainSpace:
    """Latents and class vectors, rendered by a generator."""
    shape = tuple(latents.shape[1:])
    fixed = image_noise(places.keys, "noise", shape).to(device)

    def noise(step: int) -> Tensor:
        return fixed if method.chain.noise == "fixed" else image_noise(places.keys, step, shape).to(device)

    vectors = generator.vectors(places.labels, method.chain.condition)
    if vectors is None and "condition" in method.learn:
        raise BadInput("learn: condition, and the generator knows no classes; allowed: [latent]")
    return ChainSpace(
        generator.chain(method.chain),
        Picture(generator.codec, resolution),
        latents,
        None if vectors is None else vectors.to(device),
        noise,
        learn=frozenset(method.learn),
        micro_batch=method.micro_batch,
    )


@singledispatch
def open_space(
    method: Matched,
    real: RealImages | None,
    places: Places,
    key: Key,
    *,
    classes: Sequence[str],
    domain: Domain,
    seed: int,
    device: torch.device,
    generator: Path | None = None,
    autoencoder: Path | None = None,
) -> Space:
    """The space of a method at its start.

    Args:
        real: images to start from; None: the space only renders states.
        domain: side and channels of the images of the data, and how networks see them.
        generator, autoencoder: folders, where the method has them.
    """
    raise TypeError(f"{type(method).__name__}: no method that optimises images")


@open_space.register
def _(method: LD3M, real: RealImages | None, places: Places, key: Key, **options: Any) -> Space:
    resolution, device = options["domain"].size, options["device"]
    opened = open_generator(
        options["generator"],
        options["autoencoder"],
        method.chain,
        options["classes"],
        resolution=resolution,
        seed=options["seed"],
        device=device,
    )
    latents = _latents(method, real, places, opened.codec, opened.side, key, device)
    return chain_space(opened, method, places, latents, resolution, device)


@open_space.register
def _(method: Latent, real: RealImages | None, places: Places, key: Key, **options: Any) -> Space:
    resolution, device = options["domain"].size, options["device"]
    codec = codec_of(None, options["autoencoder"], None).to(device)
    latents = _latents(method, real, places, codec, resolution, key, device)
    return LatentSpace(Picture(codec, resolution), latents, micro_batch=method.micro_batch)


@open_space.register
def _(method: Pixels, real: RealImages | None, places: Places, key: Key, **options: Any) -> Space:
    domain, device = options["domain"], options["device"]
    mean, std = domain.statistics(device)
    if real is None:
        images = _no_images(domain, device)
    elif method.init == "real":
        images = initial_images(real, places, key)
    else:
        images = image_noise(places.keys, "initial", real.pixels.shape[1:]).to(device) * std + mean
    return PixelSpace(images, mean, std, clamp=method.clamp)


@open_space.register
def _(method: IDC, real: RealImages | None, places: Places, key: Key, **options: Any) -> Space:
    images = _no_images(options["domain"], options["device"]) if real is None else initial_images(real, places, key)
    return UnitPixels(images, method.inner * len(places.labels.unique()))


def _no_images(domain: Domain, device: torch.device) -> Tensor:
    return torch.zeros(0, domain.channels, domain.size, domain.size, device=device)


def _latents(
    method: LD3M | Latent,
    real: RealImages | None,
    places: Places,
    codec: Codec,
    side: int,
    key: Key,
    device: torch.device,
) -> Tensor:
    if real is not None:
        return initial_latents(method, real, places, codec, side, key, device)
    size = codec.latent_size(side)
    return torch.zeros(len(places.keys), codec.channels, size, size, device=device)


# ---- objectives ------------------------------------------------------------------------------------------------------


def comparing_objective(
    method: Matched, real: RealImages, network: str, key: Key, device: torch.device, experts: Sequence[Path] = ()
) -> Objective:
    """The objective of a method.

    Args:
        experts: files of trajectories, for the objective that matches them.

    Raises:
        BadInput: a network that cannot compare, or an objective without its experts, or with others.
    """
    networks = Comparing(network, real.classes, real.domain, device)
    return _objective(method.compares, method, real, networks, key, experts)


@singledispatch
def _objective(
    block: object, method: Matched, real: RealImages, networks: Comparing, key: Key, experts: Sequence[Path]
) -> Objective:
    raise TypeError(f"{type(block).__name__}: no objective")


@_objective.register
def _(block: Gradient, method: Matched, real: RealImages, networks: Comparing, key: Key, experts: Any) -> Objective:
    return GradientMatching(real, networks, key, **block.model_dump(exclude={"kind"}))


@_objective.register
def _(block: Distribution, method: Matched, real: RealImages, networks: Comparing, key: Key, experts: Any) -> Objective:
    return DistributionMatching(real, networks, key, **block.model_dump(exclude={"kind"}))


@_objective.register
def _(
    block: Trajectory, method: Matched, real: RealImages, networks: Comparing, key: Key, experts: Sequence[Path]
) -> Objective:
    if not experts:
        raise BadInput("objective: trajectories are matched, and there are no experts; name one of experts")
    trajectories = Trajectories(experts, wanted_of(networks.name, real, block.last_epoch))
    options = block.model_dump(exclude={"kind", "experts"})
    options["gradient"] = block.gradient or method.default_gradient
    return TrajectoryMatching(real, networks, trajectories, key, **options)


@_objective.register
def _(block: IDC, method: Matched, real: RealImages, networks: Comparing, key: Key, experts: Any) -> Objective:
    return IDCMatching(real, networks, key, **block.constants(len(real.classes)))


def optimiser_of(method: Matched, parameters: Tensors, ipc: int, side: int, classes: int) -> Optimiser:
    """The optimiser of a method's parameters."""
    return Optimiser(parameters, **method.optimiser_options(ipc, side, classes))
