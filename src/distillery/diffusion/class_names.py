"""What the classes of a pretrained generator are called. torch is not needed here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from distillery.data.identity import imagenet_id2label, imagenet_names, wnids_of
from distillery.diffusion.weights import read_config
from distillery.errors import WeightsError

INDEX = "model_index.json"


def class_table(folder: Path, classes: Literal["imagenet1k", "own"], count: int) -> dict[str, str]:
    """Index -> names of the `count` classes of a generator: by the table of ImageNet-1K, or by its own `id2label`.

    Its own names are added to those of the table; rows beyond the thousand, as fine-tuning adds them, keep theirs.

    Raises:
        WeightsError: it has no names, another number of classes, or names that the table has at other indices.
    """
    path = folder / INDEX
    own: Mapping[str, str] = (read_config(folder, INDEX).get("id2label") or {}) if path.exists() else {}
    if classes == "own" and not own:
        raise WeightsError(f"{path}: names no classes (id2label); set classes: imagenet1k if it is one of those")
    if outside := [key for key in own if not key.isdecimal() or int(key) >= count]:
        raise WeightsError(f"{path}: id2label names class {outside[0]} of {count}; the two do not belong together")
    if classes == "own":
        return dict(own)
    table = list(imagenet_names())
    if count < len(table):
        raise WeightsError(f"{folder}: {count} classes, and ImageNet-1K has {len(table)}; set classes: own")
    for key, text in own.items():
        meant = wnids_of(text)
        if int(key) < len(table) and meant and table[int(key)] not in meant:
            raise WeightsError(
                f"{path}: id2label calls class {key} {text!r}, which is {table[int(key)]} in ImageNet-1K; "
                "set classes: own"
            )
    return {**imagenet_id2label(own), **{key: text for key, text in own.items() if int(key) >= len(table)}}
