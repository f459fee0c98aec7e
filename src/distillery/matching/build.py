"""From files and settings to a space, an objective and an optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.data.pixels import scaled
from distillery.diffusion.autoencoder import Codec
from distillery.diffusion.renderer import codec_of
from distillery.errors import BadInput
from distillery.matching.chain import Picture
from distillery.matching.experts import Trajectories
from distillery.matching.generator import FrozenGenerator, open_generator
from distillery.matching.idc import IDCMatching
from distillery.matching.networks import Comparing
from distillery.matching.objectives import DistributionMatching, GradientMatching, Objective
from distillery.matching.real_images import RealImages
from distillery.matching.settings import PUBLISHED_RATES, RELATIVE_RATE, Distribution, Gradient, Trajectory
from distillery.matching.spaces import ChainSpace, LatentSpace, PixelSpace, Space, Tensors, UnitPixels
from distillery.matching.steps import Optimiser
from distillery.matching.trajectory import TrajectoryMatching
from distillery.methods.matching import IDC, LD3M, Latent, Pixels
from distillery.streams import Key, image_noise, stream
from distillery.students.networks import Domain

Matched = Any


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
    found = []
    for images in initial_images(real, places, key).split(method.micro_batch):
        found.append(codec.encode(2 * scaled(images, side) - 1)[0])  # encoders take [-1, 1], never what networks see
    return torch.cat(found)


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


def pixel_space(
    method: Pixels | IDC, real: RealImages | None, places: Places, key: Key, domain: Domain, device: torch.device
) -> PixelSpace:
    """Pixels that start as real images or as noise; without real images, a space that only renders."""
    mean, std = domain.statistics(device)
    if real is None:
        images = torch.zeros(0, domain.channels, domain.size, domain.size, device=device)
    elif isinstance(method, IDC) or method.init == "real":
        images = initial_images(real, places, key)
    else:
        images = image_noise(places.keys, "initial", real.pixels.shape[1:]).to(device) * std + mean
    if isinstance(method, IDC):
        return UnitPixels(images, method.inner * len(places.labels.unique()))
    return PixelSpace(images, mean, std, clamp=method.clamp)


# ---- objectives ------------------------------------------------------------------------------------------------------


def comparing_objective(
    method: Matched, real: RealImages, network: str, key: Key, device: torch.device, experts: Trajectories | None
) -> Objective:
    """The objective of a method.

    Raises:
        BadInput: a network that cannot compare, or an objective without its experts.
    """
    networks = Comparing(network, real.classes, real.domain, device)
    if isinstance(method, IDC):
        return IDCMatching(real, networks, key, **idc_constants(method, len(real.classes)))
    objective = method.objective
    options = objective.model_dump(exclude={"kind", "experts"})
    if isinstance(objective, Gradient):
        return GradientMatching(real, networks, key, **options)
    if isinstance(objective, Distribution):
        return DistributionMatching(real, networks, key, **options)
    assert isinstance(objective, Trajectory)
    if experts is None:
        raise BadInput("objective: trajectories are matched, and there are no experts; name one of experts")
    options["gradient"] = objective.gradient or ("exact" if isinstance(method, Pixels) else "tesla")
    return TrajectoryMatching(real, networks, experts, key, **options)


def idc_constants(method: IDC, classes: int) -> dict[str, Any]:
    """The constants of IDC for a number of classes: those of its code, unless the method sets them."""
    many = classes >= 100
    published = {
        "epochs": 5 if many else 10,
        "batch_train": 128 if many else 64,
        "network_rate": 0.1 if many else 0.01,
        "network_decay": 1e-4 if many else 5e-4,
    }
    own = method.model_dump(include={*published, "inner", "batch_real", "batch_ours", "images"}, exclude_none=True)
    return {**published, **own}


def idc_rate(method: IDC, ipc: int, side: int, classes: int) -> float:
    """The learning rate of pixels: 3e-3 (ipc / 10) (side / 224)^2, and 1e-3 from 100 classes on."""
    if method.learning_rate is not None:
        return method.learning_rate
    return 1e-3 if classes >= 100 else 3e-3 * (ipc / 10) * (side / 224) ** 2


def optimiser_of(method: Matched, parameters: Tensors, ipc: int, side: int, classes: int) -> Optimiser:
    """The optimiser of a method's parameters."""
    if isinstance(method, IDC):
        rate = idc_rate(method, ipc, side, classes)
        return Optimiser(parameters, {"pixels": rate}, rule="absolute", momentum=method.momentum)
    published = PUBLISHED_RATES[method.objective.kind] if method.step.rule == "absolute" else RELATIVE_RATE
    if isinstance(method, Pixels):
        rate = published if method.step.pixels is None else method.step.pixels
        return Optimiser(parameters, {"pixels": rate}, rule=method.step.rule, momentum=method.step.momentum)
    latent = published if method.step.latent is None else method.step.latent
    rates = {"latent": latent, "condition": latent if method.step.condition is None else method.step.condition}
    return Optimiser(parameters, rates, rule=method.step.rule, momentum=method.step.momentum)


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
    resolution = domain.size
    if isinstance(method, Pixels | IDC):
        return pixel_space(method, real, places, key, domain, device)
    assert autoencoder is not None
    if isinstance(method, Latent):
        codec = codec_of(None, autoencoder, None).to(device)
        latents = _latents(method, real, places, codec, resolution, key, device)
        return LatentSpace(Picture(codec, resolution), latents, micro_batch=method.micro_batch)
    assert generator is not None
    opened = open_generator(
        generator, autoencoder, method.chain, classes, resolution=resolution, seed=seed, device=device
    )
    latents = _latents(method, real, places, opened.codec, opened.side, key, device)
    return chain_space(opened, method, places, latents, resolution, device)


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
