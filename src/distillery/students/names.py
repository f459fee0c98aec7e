"""Which network names exist, answered without importing torch."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

OURS = re.compile(r"(convnet(?P<depth>[1-9])|resnet_ap10)(_w(?P<width>\d+))?")
"""`convnet3`, `resnet_ap10`; `_w32` sets the width of the first stage (128 and 64 unless said)."""


@cache
def timm_networks() -> frozenset[str]:
    """Names that timm registers, read from its source text: importing timm takes seconds."""
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    sources = Path(spec.submodule_search_locations[0], "models").glob("*.py")
    return frozenset(
        name for file in sources for name in re.findall(r"@register_model\s+def (\w+)\(", file.read_text("utf-8"))
    )


def known_network(name: str) -> str:
    """Return `name` if a network of that name can be built.

    Raises:
        ValueError: no such network; the message names what comes close.
    """
    if OURS.fullmatch(name) or name in timm_networks():
        return name
    close = difflib.get_close_matches(name, ["convnet3", "convnet6", "resnet_ap10", *timm_networks()], n=3)
    hint = f"; close: {', '.join(close)}" if close else ""
    raise ValueError(
        f"unknown network {name!r}; allowed: convnet1 to convnet9, resnet_ap10 (each with _w<width>), "
        f"or the name of a timm model{hint}"
    )


def least_side(name: str) -> int:
    """The side in pixels below which a network cannot be built; 1 where that is not known."""
    ours = OURS.fullmatch(name)
    return 2 ** int(ours["depth"]) if ours and ours["depth"] else 1
