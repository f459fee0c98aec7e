"""Which network names exist and which images they take, answered without importing torch."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LEAST_SIDES = {
    "resnet_ap10": 16,  # below, the last maps are single pixels, and instance norm makes the same of every image
    "resnet10_in": 9,
    "resnet18_in": 9,
    "resnet18_cifar_in": 9,
    "alexnet_small": 8,
    "vgg11_in": 32,
    "vit_ld3m": 16,
}
"""Our networks besides the ConvNets, and the least side of their images in pixels."""

DROPS_OUT = ("vit_ld3m",)
"""Ours whose training draws random numbers: what they compute twice differs."""

NOT_COMPARED = (
    "{name} has running statistics or dropout, and gradients of one network are compared; take one with instance norm, "
    "as convnet5 or resnet_ap10"
)

STATEFUL = frozenset(
    (  # noqa: SIM905
        "byoanet byobnet convmixer cspnet densenet dla dpn efficientformer efficientformer_v2 efficientnet "
        "efficientvit_msra fasternet fastvit ghostnet hardcorenas hgnet hrnet inception_resnet_v2 inception_v3 "
        "inception_v4 lcnetv2 levit mobilenetv3 mobilevit nasnet nextvit pnasnet regnet repghost repvit res2net "
        "resnest resnet rexnet selecsls senet shvit sknet starnet swiftformer swin_transformer swin_transformer_v2 "
        "tresnet vovnet xception xception_aligned "
    ).split()
)
"""Modules of timm whose networks have running statistics or other buffers, but for those of another norm."""

OTHER_NORM = re.compile(r"_s?gn(_|$)|_evo")
"""In names of timm: group norm, or EvoNorm, in the place of batch norm."""

ONE_WIDTH = ("alexnet_small", "vgg11_in", "vit_ld3m")

OURS = re.compile(
    rf"(?P<family>convnet(?P<depth>[1-9])(?P<norm>_bn)?|{'|'.join(LEAST_SIDES)})(_w(?P<width>[1-9]\d{{0,3}}))?"
)
"""`convnet3`, `resnet_ap10`; `_bn` takes batch norm in place of instance norm, and `_w32` sets the width of the first
stage (128 and 64 unless said)."""


@cache
def timm_networks() -> dict[str, str]:
    """Names that timm registers -> the module of each, read from its source text: importing timm takes seconds."""
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    return {
        name: file.stem
        for file in sorted(Path(spec.submodule_search_locations[0], "models").glob("*.py"))
        for name in re.findall(r"@register_model\s+def (\w+)\(", file.read_text("utf-8"))
    }


def cannot_compare(name: str) -> str | None:
    """Why gradients of such networks are not compared, as far as the name tells; None if they are, or if it does not.

    A gradient is to be of the weights alone. Which networks of timm have running statistics or other buffers is known
    by their module (`STATEFUL`); of the other modules, `Comparing` finds out when it builds one.
    """
    if ours := OURS.fullmatch(name):
        stateful = name in DROPS_OUT or ours["norm"] is not None
    else:
        stateful = timm_networks().get(name) in STATEFUL and not OTHER_NORM.search(name)
    return NOT_COMPARED.format(name=name) if stateful else None


def known_network(name: str) -> str:
    """Return `name` if a network of that name can be built.

    Raises:
        ValueError: no such network; the message names what comes close.
    """
    ours = OURS.fullmatch(name)
    if ours and ours["width"] and ours["family"] in ONE_WIDTH:
        raise ValueError(f"{ours['family']} has one width: write {ours['family']} without _w{ours['width']}")
    if ours or name in timm_networks():
        return name
    close = difflib.get_close_matches(
        name, ["convnet3", "convnet5", "convnet6", "convnet3_bn", *LEAST_SIDES, *timm_networks()], n=3
    )
    hint = f"; close: {', '.join(close)}" if close else ""
    wide = ", ".join(family for family in LEAST_SIDES if family not in ONE_WIDTH)
    raise ValueError(
        f"unknown network {name!r}; allowed: convnet1 to convnet9, {wide} (each with _w<width>, up to 9999, a convnet "
        f"with _bn before), {', '.join(ONE_WIDTH)}, or the name of a timm model{hint}"
    )


def least_side(name: str) -> int:
    """The side in pixels of the smallest images that a network takes; 1 where that is not known."""
    if (ours := OURS.fullmatch(name)) is None:
        return _patch(name) or 1
    return 2 ** int(ours["depth"]) if ours["depth"] else LEAST_SIDES[ours["family"]]


def refused_side(name: str, size: int) -> str | None:
    """Why a network cannot take images of this side in pixels, as a clause that names it; None if it can.

    Of timm's networks it knows those that cut patches and say so in their names (`patch16`): at other sides timm
    would leave out the pixels of the last rows and columns. The others of timm are not refused.
    """
    ours, least, patch = OURS.fullmatch(name), least_side(name), _patch(name)
    if ours and ours["depth"] and size < least:
        return (
            f"{ours['family']} halves the image {ours['depth']} times: {size} pixels are too few, "
            f"it takes {least} or more"
        )
    if patch and (size < patch or size % patch):
        near = [side for side in (size - size % patch, size - size % patch + patch) if side >= patch]
        return (
            f"{name} cuts the image into patches of {patch} pixels: {size} is no multiple of it, "
            f"take {' or '.join(map(str, near))}"
        )
    return f"{name} takes images of {least} or more pixels: {size} are too few" if size < least else None


def _patch(name: str) -> int | None:
    if name == "vit_ld3m":
        return 16
    found = None if OURS.fullmatch(name) else re.search(r"patch(\d+)", name)
    return int(found[1]) if found else None
