"""Which network names exist and which images they take, answered without importing torch."""

from __future__ import annotations

import difflib
import math
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

LEAST_TOKENS = 16
"""Patches that a transformer of timm has to see: attention over a few of them is none."""

TOKENS = {
    "beit": 16,
    "cait": 16,
    "convit": 16,
    "deepseek_vit": 14,
    "deit": 16,
    "eva": 16,
    "gemma4_vit": 16,
    "mlp_mixer": 16,
    "naflexvit": 16,
    "qwen3_vit": 16,
    "tnt": 16,
    "vision_transformer": 16,
    "vision_transformer_hybrid": 32,
    "vision_transformer_relpos": 16,
    "vision_transformer_sam": 16,
    "vitamin": 16,
    "volo": 16,
    "xcit": 16,
}
"""Modules of timm whose networks keep one number of tokens to the end, and the side of a token in pixels where the name
does not say another."""

OTHER_TOKENS = {"cait": 16, "resmlp_big": 8, "vit_tiny_r_s16_p8": 32, "vit_base_mci": 16}
"""Beginnings of names of such networks whose tokens have another side than module and name tell."""

STEM = ("vision_transformer_hybrid", "vitamin", "volo")
"""Modules of them in which convolutions make the tokens: they take sides that are no multiple."""

TOKEN_IN_NAME = re.compile(r"patch(\d+)|_p(\d+)_|_(?:s|b|l|ti)(\d+)_")

ONE_WIDTH = ("alexnet_small", "vgg11_in", "vit_ld3m")

OURS = re.compile(
    rf"(?P<family>convnet(?P<depth>[1-9])(?P<norm>_bn)?|{'|'.join(LEAST_SIDES)})(_w(?P<width>[1-9]\d{{0,3}}))?"
)
"""`convnet3`, `resnet_ap10`; `_bn` takes batch norm in place of instance norm, and `_w32` sets the width of the first
stage (128 and 64 unless said)."""


@cache
def _sources() -> dict[str, str]:
    """The modules of timm's networks with their source text: importing timm takes seconds."""
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return {}
    files = sorted(Path(spec.submodule_search_locations[0], "models").glob("*.py"))
    return {file.stem: file.read_text("utf-8") for file in files}


@cache
def timm_networks() -> dict[str, str]:
    """Names that timm registers -> the module of each."""
    return {
        name: module
        for module, text in _sources().items()
        for name in re.findall(r"@register_model\s+def (\w+)\(", text)
    }


@cache
def timm_tags() -> dict[str, list[str]]:
    """Names that timm registers -> the tags of their pretrained weights: `a1_in1k` of `resnet18.a1_in1k`.

    A network whose tags its source puts together when it is imported has none here.
    """
    tags: dict[str, list[str]] = {}
    for text in _sources().values():
        for name, tag in re.findall(r"^\s*['\"](\w+)\.([\w.]+)['\"]\s*:", text, re.MULTILINE):
            tags.setdefault(name, []).append(tag)
    return tags


@cache
def timm_renamed() -> dict[str, str]:
    """Former names of timm's networks -> the present ones, with their tags."""
    return {
        former: present
        for text in _sources().values()
        for block in re.findall(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", text, re.MULTILINE | re.DOTALL)
        for former, present in re.findall(r"['\"](\w+)['\"]\s*:\s*['\"]([\w.]+)['\"]", block)
    }


def _module(name: str) -> str | None:
    """The module of a network of timm, whose name may have a tag."""
    return timm_networks().get(name.partition(".")[0])


def cannot_compare(name: str) -> str | None:
    """Why gradients of such networks are not compared, as far as the name tells; None if they are, or if it does not.

    A gradient is to be of the weights alone. Which networks of timm have running statistics or other buffers is known
    by their module (`STATEFUL`); of the other modules, `Comparing` finds out when it builds one.
    """
    if ours := OURS.fullmatch(name):
        stateful = name in DROPS_OUT or ours["norm"] is not None
    else:
        stateful = _module(name) in STATEFUL and not OTHER_NORM.search(name)
    return NOT_COMPARED.format(name=name) if stateful else None


def known_network(name: str) -> str:
    """Return `name` if a network of that name can be built; one of timm may name its pretrained weights with a tag.

    Raises:
        ValueError: no such network or tag; the message names the same word as it is written here, or what comes close.
    """
    ours = OURS.fullmatch(name)
    if ours and ours["width"] and ours["family"] in ONE_WIDTH:
        raise ValueError(f"{ours['family']} has one width: write {ours['family']} without _w{ours['width']}")
    network, _, tag = name.partition(".")
    tags = timm_tags().get(network, [])
    if ours or (network in timm_networks() and (not tag or not tags or tag in tags)):
        return name
    if network in timm_networks():
        raise ValueError(
            f"timm knows no weights {tag!r} of {network}; allowed: {network} alone, or with one of: {', '.join(tags)}"
        )
    if present := timm_renamed().get(name):
        raise ValueError(f"timm has renamed {name}: write {present}")
    known = ["convnet3", "convnet5", "convnet6", "convnet3_bn", *LEAST_SIDES, *timm_networks()]
    if same := [other for other in known if _folded(other) == _folded(name.rpartition("/")[2])]:
        raise ValueError(f"unknown network {name!r}; write {' or '.join(same)}")
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"; close: {', '.join(close)}" if close else ""
    wide = ", ".join(family for family in LEAST_SIDES if family not in ONE_WIDTH)
    raise ValueError(
        f"unknown network {name!r}; allowed: convnet1 to convnet9, {wide} (each with _w<width>, up to 9999, a convnet "
        f"with _bn before), {', '.join(ONE_WIDTH)}, or the name of a timm model{hint}"
    )


def _folded(name: str) -> str:
    """A name without its tag, without case, and without what separates its words: `ResNetAP10` is `resnet_ap10`."""
    return re.sub(r"[^a-z0-9]", "", name.partition(".")[0].lower())


def token_side(name: str) -> int | None:
    """The side in pixels of a token of a timm network that keeps one number of tokens; None of any other network."""
    module = _module(name)
    if OURS.fullmatch(name) or module not in TOKENS:
        return None
    for beginning, side in OTHER_TOKENS.items():
        if name.startswith(beginning):
            return side
    said = TOKEN_IN_NAME.search(name.partition(".")[0])
    return int(next(filter(None, said.groups()))) if said else TOKENS[str(module)]


def least_side(name: str) -> int:
    """The side in pixels of the smallest images that a network takes; 1 where that is not known."""
    if (ours := OURS.fullmatch(name)) is None:
        token = token_side(name)
        return math.isqrt(LEAST_TOKENS) * token if token else _patch(name) or 1
    return 2 ** int(ours["depth"]) if ours["depth"] else LEAST_SIDES[ours["family"]]


def refused_side(name: str, size: int) -> str | None:
    """Why a network cannot take images of this side in pixels, as a clause that names it; None if it can.

    Of timm's networks it knows those that cut patches, by their names (`patch16`) and modules: at other sides timm
    would leave out the pixels of the last rows and columns, and at small ones attention has next to no tokens. The
    others of timm are not refused here: the stage `check_network` builds each of them.
    """
    ours, least, patch, token = OURS.fullmatch(name), least_side(name), _patch(name), token_side(name)
    if ours and ours["depth"] and size < least:
        return (
            f"{ours['family']} halves the image {ours['depth']} times: {size} pixels are too few, "
            f"it takes {least} or more"
        )
    if patch and (size < patch or size % patch):
        below = size - size % patch
        near = [side for side in (below, below + patch) if side >= max(patch, least)] or [least]
        return (
            f"{name} cuts the image into patches of {patch} pixels: {size} is no multiple of it, "
            f"take {' or '.join(map(str, near))}"
        )
    if token and size < least:
        tokens = max(size // token, 1) ** 2
        return (
            f"{name} cuts the image into patches of {token} pixels: {size} pixels make {tokens} of them, and attention "
            f"needs {LEAST_TOKENS}; take images of {least} or more pixels, or a network of patches of "
            f"{max(size // math.isqrt(LEAST_TOKENS), 1)} or fewer"
        )
    return f"{name} takes images of {least} or more pixels: {size} are too few" if size < least else None


def _patch(name: str) -> int | None:
    if name == "vit_ld3m":
        return 16
    if OURS.fullmatch(name):
        return None
    if (token := token_side(name)) and _module(name) not in STEM:
        return token
    said = re.search(r"patch(\d+)", name)
    return int(said[1]) if said else None
