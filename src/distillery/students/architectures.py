"""The small networks of the field, built from (width, channels, classes, size).

Instance norm is GroupNorm with as many groups as channels, affine. Weights start as PyTorch draws them, but for the
convolutions of the Minimax ResNets.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _instance_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels, channels)


class HalvingPool(nn.AvgPool2d):
    """`nn.AvgPool2d(2)` by adding rows and columns: its own kernel is not vectorized on a CPU, and twice as slow."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if images.is_cuda or height % 2 or width % 2:
            return super().forward(images)
        upper, lower = images.unflatten(-2, (-1, 2)).unbind(-2)
        left, right = (upper + lower).unflatten(-1, (-1, 2)).unbind(-1)
        return (left + right) * 0.25


# ---- ConvNet ---------------------------------------------------------------------------------------------------------


def convnet(depth: int, width: int, channels: int, classes: int, size: int, *, batch_norm: bool = False) -> nn.Module:
    """ConvNet-`depth`: conv 3x3, norm, ReLU and average pooling by two, `depth` times, then one linear layer.

    Images (N, channels, size, size), standardized, to logits (N, classes). The biases of its convolutions do nothing,
    for the norm takes them off: their gradients are rounding noise.

    Args:
        batch_norm: in place of instance norm, as RDED has it (arXiv 2312.03526): with running statistics.
    """
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [
            nn.Conv2d(channels if index == 0 else width, width, 3, padding=1),
            nn.BatchNorm2d(width) if batch_norm else _instance_norm(width),
            nn.ReLU(inplace=True),
            HalvingPool(),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (size >> depth) ** 2, classes))


# ---- ResNets ---------------------------------------------------------------------------------------------------------


class _PooledBlock(nn.Module):
    """The basic block of a ResNet whose strides are average pooling."""

    def __init__(self, inner: int, outer: int, pool: bool) -> None:
        super().__init__()
        self.pool = HalvingPool() if pool else nn.Identity()
        self.conv1, self.norm1 = nn.Conv2d(inner, outer, 3, padding=1, bias=False), _instance_norm(outer)
        self.conv2, self.norm2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False), _instance_norm(outer)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inner, outer, 1, bias=False), HalvingPool(), _instance_norm(outer))
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
    return _with_normal_convolutions(network)


class _StridedBlock(nn.Module):
    """The basic block of torchvision's ResNets, with instance norm."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False), _instance_norm(outer)
        self.conv2, self.norm2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False), _instance_norm(outer)
        self.shortcut = (
            nn.Identity()
            if (inner, stride) == (outer, 1)
            else nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), _instance_norm(outer))
        )

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.relu(self.norm1(self.conv1(images)))
        return F.relu(self.norm2(self.conv2(hidden)) + self.shortcut(images))


def resnet10_in(width: int, channels: int, classes: int, size: int) -> nn.Module:
    """ResNet-10: torchvision's layout with one basic block per stage and instance norm; the stem as in `resnet18_in`.

    What the public code of Minimax diffusion (arXiv 2311.15529) builds for `resnet` unless a depth is said.
    """
    return _with_normal_convolutions(_strided_resnet(1, _minimax_stem(width, channels, size), width, classes))


def resnet18_in(width: int, channels: int, classes: int, size: int) -> nn.Module:
    """ResNet-18 in torchvision's layout with instance norm in place of batch norm.

    The stem follows the size of the images as in the public code of Minimax diffusion (arXiv 2311.15529): 7x7 with
    stride two and max pooling above 128 px, 3x3 and max pooling above 64 px, 3x3 alone below.
    """
    return _with_normal_convolutions(_strided_resnet(2, _minimax_stem(width, channels, size), width, classes))


def resnet18_cifar_in(width: int, channels: int, classes: int) -> nn.Module:
    """ResNet-18 with the stem for CIFAR (3x3, no stride, no pooling) at every size, and instance norm.

    From the cross-architecture set of LD3M (arXiv 2403.03881).
    """
    return _strided_resnet(2, [nn.Conv2d(channels, width, 3, padding=1, bias=False)], width, classes)


def _minimax_stem(width: int, channels: int, size: int) -> list[nn.Module]:
    """The first convolution, and the pooling that follows norm and ReLU."""
    if size > 128:
        return [nn.Conv2d(channels, width, 7, 2, padding=3, bias=False), nn.MaxPool2d(3, 2, padding=1)]
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    return [convolution, nn.MaxPool2d(3, 2, padding=1)] if size > 64 else [convolution]


def _strided_resnet(depth: int, stem: list[nn.Module], width: int, classes: int) -> nn.Module:
    convolution, *pooling = stem
    widths = [width, 2 * width, 4 * width, 8 * width]

    def stage(inner: int, outer: int, stride: int) -> Iterator[nn.Module]:
        yield _StridedBlock(inner, outer, stride)
        yield from (_StridedBlock(outer, outer, 1) for _ in range(depth - 1))

    return nn.Sequential(
        convolution,
        _instance_norm(width),
        nn.ReLU(inplace=True),
        *pooling,
        *stage(width, width, 1),
        *(block for inner, outer in itertools.pairwise(widths) for block in stage(inner, outer, 2)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(widths[-1], classes),
    )


def _with_normal_convolutions(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=(2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)
    return network


# ---- the cross-architecture set of LD3M ------------------------------------------------------------------------------


def alexnet_small(channels: int, classes: int, size: int) -> nn.Module:
    """AlexNet for small images: five convolutions, three max poolings by two, one linear layer; no norm, no dropout.

    From the cross-architecture set of LD3M (arXiv 2403.03881).
    """
    return nn.Sequential(
        *(nn.Conv2d(channels, 128, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(192, 256, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(256, 192, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(192, 192, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(192 * (size // 8) ** 2, classes),
    )


class _MaxPoolTo(nn.Module):
    """Adaptive max pooling to `side` x `side`.

    The values of `nn.AdaptiveMaxPool2d`, whose gradient on a GPU adds up in any order where its windows overlap.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, maps: Tensor) -> Tensor:
        for axis in (2, 3):
            size = maps.shape[axis]
            starts = [index * size // self.side for index in range(self.side)]
            ends = [-(-(index + 1) * size // self.side) for index in range(self.side)]
            windows = [maps.narrow(axis, start, end - start) for start, end in zip(starts, ends, strict=True)]
            maps = torch.stack([window.amax(axis) for window in windows], axis)
        return maps


def vgg11_in(channels: int, classes: int) -> nn.Module:
    """VGG-11 with instance norm, adaptive max pooling to 7x7 and one linear layer.

    From the cross-architecture set of LD3M (arXiv 2403.03881). At 128 px the maps before that pooling are 4x4: it
    repeats values.
    """
    layers: list[nn.Module] = []
    inner = channels
    for stage in [(64,), (128,), (256, 256), (512, 512), (512, 512)]:
        for outer in stage:
            layers += [nn.Conv2d(inner, outer, 3, padding=1), _instance_norm(outer), nn.ReLU(inplace=True)]
            inner = outer
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, _MaxPoolTo(7), nn.Flatten(), nn.Linear(inner * 7 * 7, classes))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.query_key_value(tokens).chunk(3, 2)
        )
        # Written out: the fused kernels have backward passes that do not give equal bytes twice.
        weights = (query @ key.transpose(2, 3) * query.shape[-1] ** -0.5).softmax(-1)
        return self.projection((weights @ value).transpose(1, 2).flatten(2))


class _Transformer(nn.Module):
    """A vision transformer without any norm, which reads its class token."""

    def __init__(
        self,
        channels: int,
        classes: int,
        size: int,
        patch: int = 16,
        width: int = 512,
        depth: int = 10,
        heads: int = 8,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + (size // patch) ** 2, width))
        self.dropout = nn.Dropout(dropout)
        self.attentions = nn.ModuleList(_Attention(width, heads, dropout) for _ in range(depth))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(
                *(nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout)),
                *(nn.Linear(width, width), nn.Dropout(dropout)),
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        tokens = self.dropout(tokens + self.positions)
        for attention, perceptron in zip(self.attentions, self.perceptrons, strict=True):
            tokens = tokens + attention(tokens)
            tokens = tokens + perceptron(tokens)
        return self.head(tokens[:, 0])


def vit_ld3m(channels: int, classes: int, size: int) -> nn.Module:
    """The vision transformer of LD3M (arXiv 2403.03881): patches of 16 px, ten blocks of width 512, eight heads.

    It has no LayerNorm anywhere, and no biases in queries, keys and values. Dropout of 0.1 after the embedding, in the
    perceptrons and after the projection. Class token and positions start from a standard normal.
    """
    return _Transformer(channels, classes, size)
