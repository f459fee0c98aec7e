"""The networks that are trained on distilled sets, by name: the field's own small ones, and any of timm."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillery.data.channels import Known, channel_statistics
from distillery.data.pixels import scaled
from distillery.data.whitening import Whitening
from distillery.errors import damaged
from distillery.provenance import Provenance
from distillery.storage.tensors import below, read_tensors, write_tensors
from distillery.streams import Key, stream
from distillery.students.architectures import (
    alexnet_small,
    convnet,
    resnet10_in,
    resnet18_cifar_in,
    resnet18_in,
    resnet_ap10,
    vgg11_in,
    vit_ld3m,
)
from distillery.students.names import OURS, known_network, refused_side
from distillery.students.settings import Recipe


@dataclass(frozen=True)
class Domain:
    """What images a network takes: their side, their channels, and the affine map of values in [0, 1].

    Attributes:
        mean, std: of the channels.
        whitening: what follows; None: nothing. A network of whitened images is not stored.
    """

    size: int
    channels: int
    mean: float | tuple[float, ...] = 0.5
    std: float | tuple[float, ...] = 0.5
    whitening: Whitening | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, pixels: Tensor, recipe: Recipe, whitening: Whitening | None = None) -> Domain:
        """The domain of networks that a recipe trains on stored images (N, C, H, W) uint8.

        Raises:
            ValueError: the recipe takes the statistics of the data set, and nobody has put their name in.
        """
        if recipe.normalize == "dataset":
            raise ValueError("normalize: dataset stands for dataset.normalization, which an experiment puts in")
        return cls.named(recipe.normalize, recipe.size or pixels.shape[-1], pixels.shape[1], whitening)

    @classmethod
    def named(cls, name: Known, size: int, channels: int, whitening: Whitening | None = None) -> Domain:
        """Images standardised by the mean and standard deviation of this name."""
        return cls(size, channels, *channel_statistics(name, channels), whitening)

    def statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the channels of images in [0, 1], each (C, 1, 1)."""
        return (
            torch.as_tensor(self.mean, device=device).expand(self.channels)[:, None, None],
            torch.as_tensor(self.std, device=device).expand(self.channels)[:, None, None],
        )

    def from_unit(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], as a decoder gives them, to what the network takes. Differentiable, no clamp."""
        images = scaled(images, self.size)
        mean, std = self.statistics(images.device)
        seen = ((images + 1) / 2 - mean) / std
        return seen if self.whitening is None else self.whitening.to(seen.device)(seen)


class Classifier(nn.Module):
    """A network with the domain of its images and the name by which it can be built again."""

    def __init__(self, name: str, classes: Sequence[str], domain: Domain, key: Key = ()) -> None:
        """
        Args:
            classes: names, in the order of the labels.
            name: `convnet3`, `convnet3_w32`, `resnet_ap10`, …, or a timm model.
            key: of the stream that the initial weights are drawn from.

        Raises:
            ValueError: no such network, or it cannot take images of this side.
        """
        super().__init__()
        self.name, self.classes, self.domain = name, list(classes), domain
        with torch.random.fork_rng(devices=[]):  # initial weights come from torch's global stream
            torch.manual_seed(stream(*key, "weights").initial_seed())
            self.network = _build(known_network(name), domain, len(self.classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] to logits (N, classes)."""
        return self.network(self.domain.from_unit(images))

    def save(self, path: Path, provenance: Provenance, **about: Any) -> None:
        """Write the weights and all that is needed to build the network again."""
        write_tensors(path, self.network.state_dict(), provenance, **self.description, **about)

    @property
    def description(self) -> dict[str, Any]:
        """All that is needed to build the network again, but its weights, as JSON can hold it.

        Raises:
            ValueError: it takes whitened images, and whoever opened it would have to know by which map.
        """
        if self.domain.whitening is not None:
            raise ValueError(f"{self.name}: a network of whitened images is not stored")
        domain = {name: getattr(self.domain, name) for name in ("size", "channels", "mean", "std")}
        return {"network": self.name, "classes": self.classes, "domain": domain}

    @classmethod
    def described(cls, about: dict[str, Any]) -> Classifier:
        """A network of this description, with weights of no meaning."""
        return cls(about["network"], about["classes"], _domain(about["domain"]))

    @classmethod
    def load(cls, path: Path, made_by: str) -> Classifier:
        """Read what `save` wrote, in eval mode and without gradients.

        Raises:
            DamagedArtifact: not a network that `save` wrote.
        """
        tensors, about = read_tensors(path, made_by)
        try:
            classifier = cls.described(about)
            classifier.network.load_state_dict(tensors)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(path, made_by, error) from error
        return classifier.eval().requires_grad_(False)


def save_networks(path: Path, classifiers: Sequence[Classifier], provenance: Provenance) -> None:
    """Write networks to one file, with all that is needed to build them again."""
    tensors = {
        f"{number}/{name}": tensor
        for number, classifier in enumerate(classifiers)
        for name, tensor in classifier.network.state_dict().items()
    }
    write_tensors(path, tensors, provenance, networks=[classifier.description for classifier in classifiers])


def load_networks(path: Path, made_by: str) -> list[Classifier]:
    """Read what `save_networks` wrote, in eval mode and without gradients.

    Raises:
        DamagedArtifact: no file that `save_networks` wrote.
    """
    tensors, about = read_tensors(path, made_by)
    try:
        classifiers = [Classifier.described(described) for described in about["networks"]]
        for number, classifier in enumerate(classifiers):
            classifier.network.load_state_dict(below(tensors, f"{number}/"))
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise damaged(path, made_by, error) from error
    return [classifier.eval().requires_grad_(False) for classifier in classifiers]


def _domain(about: dict[str, Any]) -> Domain:
    """A domain as JSON brings it back, where a tuple is a list."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}
    return Domain(**values)


def parameter_count(name: str, size: int, channels: int, classes: int) -> int:
    """How many parameters a network has for images of this side in pixels; no memory is taken, nothing is drawn.

    Raises:
        ValueError: no such network, or it cannot take images of this side.
    """
    with torch.device("meta"):
        network = _build(known_network(name), Domain(size, channels), classes)
    return sum(parameter.numel() for parameter in network.parameters())


_OURS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "resnet_ap10": resnet_ap10,
    "resnet10_in": resnet10_in,
    "resnet18_in": resnet18_in,
    "resnet18_cifar_in": lambda width, channels, classes, _: resnet18_cifar_in(width, channels, classes),
    "alexnet_small": lambda _, channels, classes, size: alexnet_small(channels, classes, size),
    "vgg11_in": lambda _, channels, classes, __: vgg11_in(channels, classes),
    "vit_ld3m": lambda _, channels, classes, size: vit_ld3m(channels, classes, size),
}
"""Our networks besides the ConvNets, from width, channels, classes and size."""


def _build(name: str, domain: Domain, classes: int) -> nn.Module:
    if refused := refused_side(name, domain.size):
        raise ValueError(refused)
    ours = OURS.fullmatch(name)
    if ours is None:
        return _build_timm(name, domain, classes)
    if depth := ours["depth"]:
        width, batch_norm = int(ours["width"] or 128), ours["norm"] is not None
        return convnet(int(depth), width, domain.channels, classes, domain.size, batch_norm=batch_norm)
    return _OURS[ours["family"]](int(ours["width"] or 64), domain.channels, classes, domain.size)


def _build_timm(name: str, domain: Domain, classes: int) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": classes, "in_chans": domain.channels}
    if (published := timm.models.get_pretrained_cfg(name)) and published.fixed_input_size:
        options["img_size"] = domain.size
    # timm drops paths in some networks unless told not to. What a network can be told, its class says.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        accepted = _arguments(type(timm.create_model(name)))
    options |= {rate: 0.0 for rate in ("drop_rate", "drop_path_rate") if rate in accepted}
    return timm.create_model(name, pretrained=False, **options)


def _arguments(network: type[nn.Module]) -> set[str]:
    """The names of all arguments that the constructor of a network takes, or hands on to the class that it extends."""
    found: set[str] = set()
    for base in network.__mro__:
        if base is nn.Module:
            break
        if constructor := vars(base).get("__init__"):
            parameters = inspect.signature(constructor).parameters
            found |= parameters.keys()
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return found
