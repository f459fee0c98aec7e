"""What the networks promise: the published sizes, the published details, and a clear word about images they refuse."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import DropPath
from tiny import MADE_BY, perturbed
from torch import Tensor, nn
from torch.nn import functional as F

from distillery.data.pixels import to_unit
from distillery.streams import stream
from distillery.students import networks
from distillery.students.architectures import HalvingPool, vgg11_in
from distillery.students.ensemble import drops_out
from distillery.students.features import features_of, last_linear
from distillery.students.names import (
    DROPS_OUT,
    LEAST_SIDES,
    ONE_WIDTH,
    OTHER_NORM,
    STATEFUL,
    cannot_compare,
    known_network,
    least_side,
    refused_side,
    timm_networks,
)
from distillery.students.networks import Classifier, Domain, parameter_count
from distillery.students.training import logits_of

SWIN = "swin_tiny_patch4_window7_224"
OURS = ["convnet5", "convnet6", "convnet3_bn", *LEAST_SIDES]
TIMM = ["resnet18", "resnet50", "resnet101", "mobilenetv2_100", "efficientnet_b0", SWIN]
RESNETS_OF_MINIMAX = ["resnet_ap10", "resnet10_in", "resnet18_in"]
NARROW = [  # one of each of our families, as small as it gets
    ("convnet3_w8", 24),
    ("convnet3_bn_w8", 24),
    ("resnet_ap10_w4", 16),
    ("resnet10_in_w4", 72),
    ("resnet18_in_w4", 16),
    ("resnet18_cifar_in_w4", 16),
    ("alexnet_small", 16),
    ("vgg11_in", 32),
    ("vit_ld3m", 32),
]
CLASSES = ["a", "b", "c"]


def network(name: str, size: int, *key: int | str, channels: int = 3) -> Classifier:
    return Classifier(name, CLASSES, Domain(size, channels), key)


def drawn(name: str, size: int, classes: int = 10) -> Classifier:
    """The network without its weights: shapes only."""
    with torch.device("meta"):
        return Classifier(name, [str(label) for label in range(classes)], Domain(size, 3))


def stored(count: int, size: int, *key: int | str) -> Tensor:
    shape = (count, 3, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=stream("images", *key))


def of_type(module: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, kind)]


# ---- sizes -----------------------------------------------------------------------------------------------------------

PUBLISHED = [
    ("convnet6", 128, 10, 748_170),
    ("convnet6", 224, 10, 754_570),
    ("convnet6", 256, 10, 763_530),
    ("convnet5", 128, 10, 615_690),
    ("convnet3_bn", 32, 10, 320_010),
    ("resnet_ap10", 224, 10, 4_910_922),
    ("resnet_ap10", 128, 10, 4_910_922 - 7_680),
    ("resnet_ap10", 64, 10, 4_910_922 - 7_680),
    ("resnet10_in", 224, 10, 4_910_922),
    ("resnet18_in", 224, 10, 11_181_642),
    ("resnet18_in", 128, 10, 11_181_642 - 7_680),
    ("resnet18_in", 64, 10, 11_181_642 - 7_680),
    ("resnet18_cifar_in", 128, 10, 11_173_962),
    ("alexnet_small", 128, 10, 2_333_002),
    ("alexnet_small", 256, 10, 3_807_562),
    ("vgg11_in", 128, 10, 9_476_874),
    ("vit_ld3m", 128, 10, 16_176_650),
    ("vit_ld3m", 256, 10, 16_274_954),
    ("resnet18", 224, 10, 11_181_642),
    ("resnet18", 224, 1000, 11_689_512),
    ("resnet50", 224, 10, 23_528_522),
    ("resnet50", 224, 1000, 25_557_032),
    ("resnet101", 224, 10, 42_520_650),
    ("resnet101", 224, 1000, 44_549_160),
    ("mobilenetv2_100", 224, 10, 2_236_682),
    ("mobilenetv2_100", 224, 1000, 3_504_872),
    ("efficientnet_b0", 224, 10, 4_020_358),
    ("efficientnet_b0", 224, 1000, 5_288_548),
    (SWIN, 224, 10, 27_527_044),
    (SWIN, 224, 1000, 28_288_354),
]


@pytest.mark.parametrize(("name", "size", "classes", "parameters"), PUBLISHED)
def test_a_network_has_the_published_parameter_count(name: str, size: int, classes: int, parameters: int) -> None:
    assert parameter_count(name, size, 3, classes) == parameters


def test_every_network_of_ours_has_a_published_count() -> None:
    assert {name for name, *_ in PUBLISHED} == {*OURS, *TIMM}


@pytest.mark.parametrize(("name", "size"), NARROW)
def test_counting_agrees_with_building_and_draws_nothing(name: str, size: int) -> None:
    before = torch.get_rng_state()
    counted = parameter_count(name, size, 3, len(CLASSES))
    assert torch.equal(torch.get_rng_state(), before)
    assert counted == sum(parameter.numel() for parameter in network(name, size).parameters())


@pytest.mark.parametrize("size", [64, 128, 224, 256])
@pytest.mark.parametrize("name", [*OURS, *TIMM])
def test_a_network_gives_one_logit_per_class_at_every_size(name: str, size: int) -> None:
    images = torch.zeros(2, 3, size, size, device="meta")
    assert drawn(name, size)(images).shape == (2, 10)


@pytest.mark.parametrize("family", [name for name in LEAST_SIDES if name not in ONE_WIDTH])
def test_the_suffix_sets_the_width_of_the_first_stage(family: str) -> None:
    narrow = drawn(f"{family}_w4", 64)
    assert narrow.network[0].out_channels == 4
    assert last_linear(narrow).in_features == 32
    assert drawn(family, 64).network[0].out_channels == 64


# ---- details ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "kernel", "strides"),
    [
        ("resnet_ap10", 129, 7, {"conv": 1, "average": 4}),
        ("resnet_ap10", 128, 3, {"conv": 1, "average": 2}),
        ("resnet_ap10", 65, 3, {"conv": 1, "average": 2}),
        ("resnet_ap10", 64, 3, {"conv": 1}),
        ("resnet10_in", 129, 7, {"conv": 2, "max": 2}),
        ("resnet18_in", 129, 7, {"conv": 2, "max": 2}),
        ("resnet18_in", 128, 3, {"conv": 1, "max": 2}),
        ("resnet18_in", 65, 3, {"conv": 1, "max": 2}),
        ("resnet18_in", 64, 3, {"conv": 1}),
        ("resnet18_cifar_in", 256, 3, {"conv": 1}),
    ],
)
def test_the_stem_of_a_resnet_follows_the_size_of_the_images(
    name: str, size: int, kernel: int, strides: dict[str, int]
) -> None:
    convolution, _, _, after = drawn(name, size).network[:4]
    found = {"conv": convolution.stride[0]}
    if isinstance(after, nn.AvgPool2d):
        found["average"] = after.kernel_size
    if isinstance(after, nn.MaxPool2d):
        found["max"] = after.stride
        assert (after.kernel_size, after.padding) == (3, 1)
    assert (convolution.kernel_size[0], found) == (kernel, strides)


def test_resnet18_in_is_the_layout_of_torchvision() -> None:
    """Same weights, same answer: with the norms of ours put in place of its batch norms."""
    theirs = torchvision.models.resnet18(
        num_classes=len(CLASSES), norm_layer=lambda channels: nn.GroupNorm(channels, channels)
    )
    ours = perturbed(network("resnet18_in", 160).network)
    tensors = ours.state_dict().values()  # both register a norm behind its convolution, and the shortcut last
    theirs.load_state_dict(dict(zip(theirs.state_dict(), tensors, strict=True)))
    images = torch.randn(2, 3, 160, 160, generator=stream("images"))
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RESNETS_OF_MINIMAX)
def test_convolutions_of_the_minimax_resnets_start_normal_by_their_fan_out(name: str) -> None:
    for part in of_type(network(name, 224, "start").network, nn.Conv2d):
        values = part.weight / math.sqrt(2 / (part.kernel_size[0] ** 2 * part.out_channels))
        error = values.numel() ** -0.5
        assert values.mean().abs() < 5 * error
        assert (values.std() - 1).abs() < 5 * error
        assert values.abs().max() > 3  # no uniform distribution reaches that far


@pytest.mark.parametrize("name", ["convnet3", "resnet18_cifar_in", "alexnet_small", "vgg11_in", "vit_ld3m"])
def test_layers_of_the_other_networks_start_as_torch_draws_them(name: str) -> None:
    built = network(name, 32, "start").network
    for part in [*of_type(built, nn.Conv2d), *of_type(built, nn.Linear)]:
        bound = part.weight[0].numel() ** -0.5
        assert 0.95 * bound < part.weight.abs().max() <= bound


@pytest.mark.parametrize(
    "name", ["convnet6", "resnet_ap10", "resnet10_in", "resnet18_in", "resnet18_cifar_in", "vgg11_in"]
)
def test_instance_norm_is_a_group_norm_of_single_channels_with_scale_and_shift(name: str) -> None:
    built = drawn(name, 128).network
    norms = of_type(built, nn.GroupNorm)
    assert len(norms) == len(of_type(built, nn.Conv2d))
    assert all(norm.num_groups == norm.num_channels and norm.affine for norm in norms)
    fresh = of_type(network("resnet18_in_w4", 32).network, nn.GroupNorm)
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in fresh)


@pytest.mark.parametrize(
    ("name", "width", "size", "channels"),
    [("convnet3_bn", 128, 32, 3), ("convnet3_bn_w32", 32, 40, 1), ("convnet4_bn_w8", 8, 64, 3)],
)
def test_a_convnet_with_batch_norm_has_the_parameters_of_its_layers(
    name: str, width: int, size: int, channels: int
) -> None:
    """Each block a convolution with bias, and scale and shift per channel; then one weight per value and class."""
    depth = int(name[len("convnet")])
    first, further = (inner * 9 * width + width + 2 * width for inner in (channels, width))
    linear = width * (size // 2**depth) ** 2 * 10 + 10
    assert parameter_count(name, size, channels, 10) == first + (depth - 1) * further + linear


def test_batch_norm_mixes_images_in_training_and_none_in_testing() -> None:
    classifier, images = network("convnet3_bn_w8", 16, "batch"), torch.randn(6, 3, 16, 16, generator=stream("batch"))
    perturbed(classifier.network)
    beside = [classifier.train(mode)(images)[:2] - classifier(images[:2]) for mode in (True, False)]
    assert beside[0].abs().max() > 0.01
    torch.testing.assert_close(beside[1], torch.zeros(2, len(CLASSES)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["alexnet_small", "vit_ld3m"])
def test_networks_without_any_norm_have_none(name: str) -> None:
    kinds = {type(part).__name__ for part in drawn(name, 128).modules()}
    assert not {kind for kind in kinds if "Norm" in kind}


def test_vit_ld3m_has_ten_blocks_without_biases_in_queries_keys_and_values() -> None:
    built = drawn("vit_ld3m", 128).network
    pure = [part for part in of_type(built, nn.Linear) if part.bias is None]
    assert [(part.in_features, part.out_features) for part in pure] == [(512, 3 * 512)] * 10
    assert {attention.heads for attention in built.attentions} == {8}
    assert {part.p for part in of_type(built, nn.Dropout)} == {0.1}
    assert len(of_type(built, nn.Dropout)) == 1 + 10 * 3
    assert built.positions.shape == (1, 8 * 8 + 1, 512)


def test_vit_ld3m_adds_attention_and_perceptron_to_its_tokens_and_reads_the_class_token() -> None:
    classifier = network("vit_ld3m", 32, "by hand").eval()
    built, images = classifier.network, torch.randn(2, 3, 32, 32, generator=stream("images"))
    patches = F.unfold(images, 16, stride=16).transpose(1, 2)
    embedded = F.linear(patches, built.patches.weight.flatten(1), built.patches.bias)
    tokens = torch.cat([built.class_token.expand(2, 1, 512), embedded], 1) + built.positions
    for attention, perceptron in zip(built.attentions, built.perceptrons, strict=True):
        together = F.linear(tokens, attention.query_key_value.weight).view(2, 5, 3, 8, 64)
        attended = F.scaled_dot_product_attention(*together.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        tokens = tokens + attention.projection(attended)
        tokens = tokens + perceptron[3](F.gelu(perceptron[0](tokens)))
    torch.testing.assert_close(built(images), built.head(tokens[:, 0]), rtol=1e-4, atol=1e-4)


def test_resnet_ap10_averages_where_others_stride() -> None:
    """At a stage change: after the first ReLU of the block, and between convolution and norm of the shortcut."""
    built = perturbed(network("resnet_ap10_w4", 16, "by hand").network)
    images = torch.randn(2, 3, 16, 16, generator=stream("images"))
    maps = F.relu(built[1](built[0](images)))
    for block in built[4:8]:
        narrow = maps.shape[1] != block.conv1.out_channels
        hidden = F.relu(block.norm1(F.conv2d(maps, block.conv1.weight, padding=1)))
        hidden = F.avg_pool2d(hidden, 2) if narrow else hidden
        if narrow:
            maps = block.shortcut[2](F.avg_pool2d(F.conv2d(maps, block.shortcut[0].weight), 2))
        maps = F.relu(block.norm2(F.conv2d(hidden, block.conv2.weight, padding=1)) + maps)
    assert maps.shape == (2, 32, 2, 2)
    torch.testing.assert_close(built(images), built[-1](maps.mean((2, 3))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("convnet3", "c3-128 n r a  c3-128 n r a  c3-128 n r a  l"),
        ("convnet3_bn", "c3-128 b r a  c3-128 b r a  c3-128 b r a  l"),
        ("alexnet_small", "c5-128 r m  c5-192 r m  c3-256 r  c3-192 r  c3-192 r m  l"),
        (
            "vgg11_in",
            "c3-64 n r m  c3-128 n r m  c3-256 n r  c3-256 n r m  "
            "c3-512 n r  c3-512 n r m  c3-512 n r  c3-512 n r m  7  l",
        ),
    ],
    ids=["convnet3", "convnet3_bn", "alexnet_small", "vgg11_in"],
)
def test_the_plain_networks_are_these_layers(name: str, layers: str) -> None:
    letters = {
        nn.GroupNorm: "n",
        nn.BatchNorm2d: "b",
        nn.ReLU: "r",
        HalvingPool: "a",
        nn.MaxPool2d: "m",
        nn.Linear: "l",
    }
    found = []
    for part in drawn(name, 128).network:
        if isinstance(part, nn.Conv2d):
            assert (part.stride, part.padding) == ((1, 1), (part.kernel_size[0] // 2,) * 2)
            found.append(f"c{part.kernel_size[0]}-{part.out_channels}")
        elif not isinstance(part, nn.Flatten):
            found.append(letters.get(type(part)) or str(part.side))
    assert found == layers.split()


@pytest.mark.parametrize("side", [2, 6, 7, 16])
def test_halving_is_average_pooling_with_its_gradient(side: int) -> None:
    maps = torch.randn(2, 3, side, side, generator=stream("maps"), requires_grad=True)
    pooled, reference = HalvingPool()(maps), F.avg_pool2d(maps, 2)
    torch.testing.assert_close(pooled, reference)
    direction = torch.randn(pooled.shape, generator=stream("direction"))
    torch.testing.assert_close(*(torch.autograd.grad(out, maps, direction)[0] for out in (pooled, reference)))


@pytest.mark.parametrize("side", [1, 4, 7, 8])
def test_the_last_pooling_of_vgg11_in_is_adaptive_max_pooling_with_its_gradient(side: int) -> None:
    pooling = vgg11_in(3, 2)[-3]
    maps = torch.randn(2, 3, side, side, generator=stream("maps"), requires_grad=True)
    direction = torch.randn(2, 3, 7, 7, generator=stream("direction"))
    ours, theirs = pooling(maps), F.adaptive_max_pool2d(maps, 7)
    assert torch.equal(ours, theirs)
    gradients = [torch.autograd.grad(pooled, maps, direction)[0] for pooled in (ours, theirs)]
    torch.testing.assert_close(*gradients)


# ---- networks of timm ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TIMM, "swinv2_tiny_window8_256", "vit_tiny_patch16_224", "vgg11"])
def test_networks_of_timm_drop_nothing(name: str) -> None:
    built = drawn(name, 64).network
    assert not of_type(built, DropPath)
    assert not any(part.p for part in of_type(built, nn.Dropout))
    assert not getattr(built, "drop_rate", 0.0)


@pytest.mark.parametrize("size", [64, 128, 224])
def test_swin_shrinks_its_windows_to_small_images_and_learns_from_all_of_them(size: int) -> None:
    classifier = network(SWIN, size, "swin")
    images = torch.randn(1, 3, size, size, generator=stream("images")).requires_grad_()
    classifier(images).square().sum().backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad != 0).any(1).float().mean() > 0.99
    windows = [stage.blocks[0].window_size[0] for stage in classifier.network.layers]
    assert windows == [min(7, size // 4 // 2**stage) for stage in range(4)]


def test_networks_of_timm_start_as_timm_draws_them() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream("theirs", "weights").initial_seed())
        theirs = timm.create_model("resnet18", num_classes=len(CLASSES)).state_dict()
    ours = network("resnet18", 32, "theirs").network.state_dict()
    assert all(torch.equal(ours[part], theirs[part]) for part in theirs)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_100", SWIN])
def test_networks_of_timm_take_other_numbers_of_channels(name: str) -> None:
    with torch.device("meta"):
        classifier = Classifier(name, CLASSES, Domain(64, 1))
        assert classifier(torch.zeros(2, 1, 64, 64)).shape == (2, len(CLASSES))


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*OURS, *TIMM, "convnet3_w32", "convnet3_bn_w32", "resnet10_in_w8", "resnet18_cifar_in_w16"]
)
def test_a_known_name_is_returned(name: str) -> None:
    assert known_network(name) == name


def test_an_unknown_network_is_shown_all_of_ours_and_what_comes_close() -> None:
    with pytest.raises(ValueError, match="unknown network 'resnet18_ni'") as refusal:
        known_network("resnet18_ni")
    allowed, close = str(refusal.value).split("; close: ")
    assert all(name in allowed for name in ["convnet1 to convnet9", "_bn", *LEAST_SIDES])
    assert "resnet18" in close.split(", ")
    assert "resnet18_in" in close.split(", ")


@pytest.mark.parametrize(
    "name", ["convnet0", "convnet10", "convnet3_w0", "convnet3_w8_bn", "resnet_ap10_w", "resnet_ap18", "hf-hub:a/b"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown network '{name}'"):
        known_network(name)


@pytest.mark.parametrize("family", ONE_WIDTH)
def test_a_width_is_refused_where_there_is_none_to_choose(family: str) -> None:
    with pytest.raises(ValueError, match=f"{family} has one width: write {family} without _w32"):
        known_network(f"{family}_w32")


def test_names_are_answered_without_torch() -> None:
    questions = "known_network('resnet50'), least_side('vit_ld3m'), refused_side('convnet5', 16)"
    code = f"import sys; from distillery.students.names import *; {questions}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- sides -----------------------------------------------------------------------------------------------------------

EDGES = [
    ("convnet1_w4", 2),
    ("convnet3_w4", 8),
    ("convnet3_bn_w4", 8),
    ("resnet_ap10_w4", 16),
    ("resnet10_in_w4", 9),
    ("resnet18_in_w4", 9),
    ("resnet18_cifar_in_w4", 9),
    ("alexnet_small", 8),
    ("vgg11_in", 32),
    ("vit_ld3m", 16),
]


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize(("name", "least"), EDGES)
def test_the_least_side_is_the_first_at_which_a_network_runs(
    name: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch refuses the instance norm of one image's maps of one pixel, of which it could only make zeros."""
    assert least_side(name) == least
    assert refused_side(name, least) is None
    images = torch.randn(2, 1, 3, least, least, generator=stream("images"))
    one, other = (network(name, least).eval()(image) for image in images)
    assert torch.isfinite(one).all()
    assert not torch.allclose(one, other, rtol=1e-5, atol=0)
    for side in {1, least // 2, least - 1}:
        refusal = refused_side(name, side)
        assert refusal
        with pytest.raises(ValueError, match=refusal):
            network(name, side)
        with monkeypatch.context() as unguarded, pytest.raises((ValueError, RuntimeError)):
            unguarded.setattr(networks, "refused_side", lambda *_: None)
            network(name, side)(torch.zeros(1, 3, side, side))


@pytest.mark.parametrize("name", [*OURS, *TIMM])
def test_no_network_refuses_the_sides_of_the_papers(name: str) -> None:
    assert [refused_side(name, side) for side in (64, 128, 224, 256)] == [None] * 4


@pytest.mark.parametrize("name", ["vit_ld3m", "vit_tiny_patch16_224"])
def test_pixels_beyond_the_last_patch_would_be_ignored_and_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = f"{name} cuts the image into patches of 16 pixels: 72 is no multiple of it, take 64 or 80"
    assert refused_side(name, 72) == refusal
    with pytest.raises(ValueError, match=refusal):
        parameter_count(name, 72, 3, 10)
    monkeypatch.setattr(networks, "refused_side", lambda *_: None)
    images = torch.randn(1, 3, 72, 72, generator=stream("images"), requires_grad=True)
    network(name, 72).eval()(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad[..., :64, :64].abs().sum() > 0
    assert not images.grad[..., 64:, :].any()


def test_the_patch_of_a_swin_is_read_from_its_name() -> None:
    assert (least_side(SWIN), least_side("resnet50")) == (4, 1)
    assert refused_side(SWIN, 66) == f"{SWIN} cuts the image into patches of 4 pixels: 66 is no multiple of it, " + (
        "take 64 or 68"
    )
    assert refused_side("resnet50", 66) is None


# ---- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size"), [*NARROW, ("test_resnet", 32), ("test_vit", 160), ("resnet18", 32), ("mobilenetv2_100", 32)]
)
def test_logits_are_the_last_linear_layer_of_the_features(name: str, size: int) -> None:
    classifier = network(name, size, "features")
    pixels = stored(5, size)
    features = features_of(classifier, pixels, batch_size=2)
    assert (features.dtype, features.device.type, len(features)) == (torch.float32, "cpu", 5)
    assert not features.requires_grad
    torch.testing.assert_close(last_linear(classifier)(features), logits_of(classifier, pixels), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features, features_of(classifier, pixels), rtol=1e-4, atol=1e-5)


def test_features_of_a_convnet_are_all_its_layers_but_the_last() -> None:
    classifier = network("convnet3_w8", 24, "features")
    pixels = stored(4, 24)
    expected = classifier.network[:-1](classifier.domain.from_unit(to_unit(pixels)))
    assert expected.shape == (4, 8 * 3 * 3)
    torch.testing.assert_close(features_of(classifier, pixels), expected)


def test_images_of_another_size_are_brought_to_that_of_the_network() -> None:
    classifier = network("convnet3_w8", 24, "features")
    assert features_of(classifier, stored(2, 40)).shape == (2, 8 * 3 * 3)


def test_the_embedding_of_distribution_matching_has_2048_features() -> None:
    assert last_linear(drawn("convnet5", 128)).in_features == 2048


@pytest.mark.parametrize("training", [True, False])
def test_asking_for_features_leaves_the_network_as_it_was(training: bool) -> None:
    classifier = network("test_resnet", 32, "mode").train(training)  # it has batch norm
    before = pickle.dumps(classifier.network)  # with its hooks
    with torch.autocast("cpu", torch.bfloat16):
        features = features_of(classifier, stored(3, 32))
    assert all(module.training is training for module in classifier.modules())
    assert pickle.dumps(classifier.network) == before
    assert torch.equal(features, features_of(classifier.eval(), stored(3, 32)))


def test_a_network_with_two_heads_has_no_features() -> None:
    with pytest.raises(ValueError, match="deit_tiny_distilled_patch16_224 does not end in one linear layer"):
        last_linear(drawn("deit_tiny_distilled_patch16_224", 64))


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "size"), [*NARROW, ("test_resnet", 32)])
def test_a_saved_network_is_opened_and_answers_the_same(name: str, size: int, tmp_path: Path) -> None:
    classifier = network(name, size, "saved")
    classifier.save(tmp_path / "student.safetensors", MADE_BY)
    opened = Classifier.load(tmp_path / "student.safetensors", "train_student")
    pixels = stored(2, size)
    assert (opened.name, opened.domain) == (name, classifier.domain)
    assert torch.equal(logits_of(opened, pixels), logits_of(classifier, pixels))


@pytest.mark.parametrize(("name", "size"), NARROW)
def test_equal_keys_give_equal_weights(name: str, size: int) -> None:
    one, again, other = (network(name, size, key).network.state_dict() for key in (1, 1, 2))
    assert all(torch.equal(one[part], again[part]) for part in one)
    assert any(not torch.equal(one[part], other[part]) for part in one)


@pytest.mark.parametrize("name", OURS)
def test_which_networks_of_ours_drop_out_or_have_buffers_is_known_without_building_them(name: str) -> None:
    built = drawn(name, 64)
    assert (drops_out(built) or any(True for _ in built.buffers())) == (cannot_compare(name) is not None)
    assert drops_out(built) == (name in DROPS_OUT)


def test_what_names_of_timm_tell_of_buffers_is_true() -> None:
    """A network that is refused by name has buffers: one of each module in the table, those of another norm, others."""
    first = {module: name for name, module in reversed(timm_networks().items()) if module in STATEFUL}
    assert set(first) == STATEFUL
    other = [name for name, module in timm_networks().items() if module in STATEFUL and OTHER_NORM.search(name)]
    for name in [*first.values(), *other, "vit_tiny_patch16_224", "convnext_atto", "mixer_s32_224", "vgg11", *TIMM]:
        with torch.device("meta"):
            buffers = any(True for _ in timm.create_model(name, num_classes=2).buffers())
        assert buffers or cannot_compare(name) is None, name
