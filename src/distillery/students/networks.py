"""The networks that are trained on distilled sets: the field's own small ones, and any of timm.

Instance norm is GroupNorm with as many groups as channels, affine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distillery.artifacts import Provenance, damaged, read_tensors, write_tensors
from distillery.streams import Key, stream
from distillery.students.names import OURS, known_network


def _instance_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels, channels)


def convnet(depth: int, width: int, channels: int, classes: int, size: int) -> nn.Module:
    """ConvNet-`depth`: conv 3x3, instance norm, ReLU and average pooling by two, `depth` times, then one linear layer.

    Raises:
        ValueError: the images are too small to be halved that often.
    """
    if size >> depth < 1:
        raise ValueError(f"convnet{depth} halves the image {depth} times: {size} pixels are too few")
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [
            nn.Conv2d(channels if index == 0 else width, width, 3, padding=1),
            _instance_norm(width),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (size >> depth) ** 2, classes))


class _PooledBlock(nn.Module):
    """The basic block of a ResNet whose strides are average pooling."""

    def __init__(self, inner: int, outer: int, pool: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2) if pool else nn.Identity()
        self.conv1, self.norm1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False), _instance_norm(outer)
        self.conv2, self.norm2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False), _instance_norm(outer)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inner, outer, 1, bias=False), nn.AvgPool2d(2), _instance_norm(outer))
            if pool
            else nn.Identity()
        )

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.pool(F.relu(self.norm1(self.conv1(images))))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))


def resnet_ap10(width: int, channels: int, classes: int, size: int) -> nn.Module:
    """ResNetAP-10: one basic block per stage, instance norm, average pooling in place of strides.

    The stem follows the size of the images as in the public code of Minimax diffusion (arXiv 2311.15529): 7x7 and
    pooling by four above 128 px, 3x3 and pooling by two above 64 px, 3x3 alone below.
    """
    kernel = 7 if size > 128 else 3
    pool = 4 if size > 128 else 2 if size > 64 else 1
    widths = [width, 2 * width, 4 * width, 8 * width]
    network = nn.Sequential(
        nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False),
        _instance_norm(width),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(pool) if pool > 1 else nn.Identity(),
        _PooledBlock(width, width, pool=False),
        *(_PooledBlock(inner, outer, pool=True) for inner, outer in itertools.pairwise(widths)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], classes),
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=(2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)
    return network


@dataclass(frozen=True)
class Domain:
    """What images a network takes: their side, their channels, and the affine map of values in [0, 1]."""

    size: int
    channels: int
    mean: float = 0.5
    std: float = 0.5

    def from_unit(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], as a decoder gives them, to what the network takes. Differentiable, no clamp."""
        if images.shape[-1] != self.size:
            images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        return ((images + 1) / 2 - self.mean) / self.std


class Classifier(nn.Module):
    """A network with the domain of its images and the name by which it can be built again."""

    def __init__(self, name: str, classes: Sequence[str], domain: Domain, key: Key = ()) -> None:
        """
        Args:
            classes: names, in the order of the labels.
            name: `convnet3`, `convnet3_w32`, `resnet_ap10`, …, or a timm model.
            key: of the stream that the initial weights are drawn from.
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
        facts = {"network": self.name, "classes": self.classes, "domain": asdict(self.domain), **about}
        write_tensors(path, self.network.state_dict(), provenance, **facts)

    @classmethod
    def load(cls, path: Path, made_by: str) -> Classifier:
        """Read what `save` wrote, in eval mode and without gradients.

        Raises:
            DamagedArtifact: not a network that `save` wrote.
        """
        tensors, about = read_tensors(path, made_by)
        try:
            classifier = cls(about["network"], about["classes"], Domain(**about["domain"]))
            classifier.network.load_state_dict(tensors)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise damaged(path, made_by, error) from error
        return classifier.eval().requires_grad_(False)


def _build(name: str, domain: Domain, classes: int) -> nn.Module:
    if ours := OURS.fullmatch(name):
        width = ours["width"]
        if ours["depth"]:
            return convnet(int(ours["depth"]), int(width or 128), domain.channels, classes, domain.size)
        return resnet_ap10(int(width or 64), domain.channels, classes, domain.size)
    import timm

    return timm.create_model(name, pretrained=False, num_classes=classes, in_chans=domain.channels)
