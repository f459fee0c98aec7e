"""Networks of timm: their names are understood or answered, and sides that they cannot take are refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch

from distillery.students.names import (
    LEAST_TOKENS,
    OURS,
    TOKENS,
    cannot_compare,
    known_network,
    least_side,
    refused_side,
    timm_networks,
    timm_renamed,
    timm_tags,
    token_side,
)
from distillery.students.networks import Classifier, Domain

CLASSES = ["a", "b", "c"]


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k", "resnet50.tv_in1k"])
def test_a_network_with_the_tag_of_its_weights_is_known_and_built(name: str) -> None:
    assert known_network(name) == name
    with torch.device("meta"):
        classifier = Classifier(name, CLASSES, Domain(64, 1))
        assert classifier(torch.zeros(2, 1, 64, 64)).shape == (2, len(CLASSES))
    plain = name.partition(".")[0]
    assert (least_side(name), cannot_compare(name) is None) == (least_side(plain), cannot_compare(plain) is None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18.a9_in1k", r"timm knows no weights 'a9_in1k' of resnet18; allowed: resnet18 alone, or .*a1_in1k"),
        ("ssl_resnet18", r"timm has renamed ssl_resnet18: write resnet18\.fb_ssl_yfcc100m_ft_in1k$"),
        ("tf_efficientnet_b0_ns", r"write tf_efficientnet_b0\.ns_jft_in1k$"),
        ("ResNetAP10", r"unknown network 'ResNetAP10'; write resnet_ap10$"),
        ("ResNet-18", r"write resnet18$"),
        ("ConvNet3", r"write convnet3$"),
        ("timm/resnet18.a1_in1k", r"unknown network 'timm/resnet18.a1_in1k'; write resnet18$"),
        ("VGG11_IN", r"write vgg11_in$"),
    ],
)
def test_another_spelling_is_answered_with_the_same_network_alone(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        known_network(name)


@pytest.mark.parametrize("name", ["resnet18x", "resnet_ap18", "vit_tiny_patch16", "convnet0"])
def test_a_hint_is_a_network_and_not_the_word_that_was_typed(name: str) -> None:
    with pytest.raises(ValueError, match="unknown network") as refusal:
        known_network(name)
    hints = str(refusal.value).partition("; close: ")[2].split(", ")
    assert name not in hints
    assert [known_network(hint) for hint in hints] == hints


def test_tags_and_former_names_are_those_of_timm() -> None:
    assert set(timm_networks()) == set(timm.list_models())
    pretrained = [name for name in timm.list_pretrained() if "." in name]
    assert [known_network(name) for name in pretrained] == pretrained
    assert len({name.partition(".")[0] for name in pretrained} - timm_tags().keys()) < 20
    former = {name: new for name, new in timm.models.get_deprecated_models().items() if new}
    assert timm_renamed() == former


def test_none_of_them_needs_timm_or_torch() -> None:
    code = (
        "import sys; from distillery.students.names import *\n"
        "known_network('resnet18.a1_in1k'); refused_side('cait_s24_224', 16); timm_renamed()\n"
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- tokens ----------------------------------------------------------------------------------------------------------


def columnar() -> list[str]:
    """A small network of timm for each module and side of a token that the rule knows."""
    first: dict[tuple[str, int | None], str] = {}
    small = sorted(timm_networks(), key=lambda name: ("tiny" not in name and "small" not in name, len(name), name))
    for name in small:
        if timm_networks()[name] in TOKENS and name not in ("resmlp_big_24_224", "vit_base_mci_224"):
            first.setdefault((timm_networks()[name], token_side(name)), name)
    return [*sorted(first.values()), "resmlp_big_24_224", "vit_base_mci_224", "vit_tiny_r_s16_p8_224"]


@pytest.mark.parametrize("name", columnar())
def test_the_side_of_a_token_is_that_of_the_network(name: str) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    about = network.feature_info
    last = about[-1]["reduction"] if isinstance(about, list) else about.reduction()[-1]
    assert token_side(name) == last
    assert least_side(name) == 4 * last


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "resnet18", "convnext_atto", "pvt_v2_b0", "convnet3"])
def test_networks_that_halve_their_maps_have_no_such_side(name: str) -> None:
    assert token_side(name) is None
    assert bool(OURS.fullmatch(name)) == (name == "convnet3")


@pytest.mark.parametrize(
    ("name", "side", "words"),
    [
        ("vit_tiny_patch16_224", 16, "16 pixels make 1 of them, and attention needs 16; take images of 64 or more"),
        ("vit_tiny_patch16_224", 48, "48 pixels make 9 of them, .*or a network of patches of 12 or fewer"),
        ("xcit_nano_12_p8_224", 16, "patches of 8 pixels: 16 pixels make 4 of them"),
        ("cait_xxs24_224", 32, "patches of 16 pixels: 32 pixels make 4 of them"),
        ("mixer_s32_224", 64, "patches of 32 pixels: 64 pixels make 4 of them"),
        ("vit_tiny_patch16_224.augreg_in21k", 32, "32 pixels make 4 of them"),
        ("vit_tiny_patch16_224", 40, "40 is no multiple of it, take 64"),
    ],
)
def test_a_transformer_of_few_tokens_is_refused_with_the_side_that_fits(name: str, side: int, words: str) -> None:
    refusal = refused_side(name, side)
    assert refusal is not None
    with pytest.raises(ValueError, match=words):
        Classifier(name, CLASSES, Domain(side, 3))
    assert refused_side(name, least_side(name)) is None


def test_a_transformer_is_built_at_the_least_side_with_so_many_tokens() -> None:
    name = "vit_tiny_patch16_224"
    with torch.device("meta"):
        network = Classifier(name, CLASSES, Domain(least_side(name), 3)).network
    assert network.patch_embed.num_patches == LEAST_TOKENS
