"""A folder in which the presets of ImageNet load: empty images with its names, and weights of a few kilobytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from clone import PROJECT
from safetensors.torch import save_file
from tiny_weights import dit, kl, save_dit

from distillery.data.identity import class_list_called, imagenet_names

EXPERIMENTS = PROJECT / "experiments"


def stand_ins(folder: Path) -> None:
    """ImageNet-1K with empty files, and weights with the names and shapes of the real ones and nothing in them."""
    many = {*class_list_called("imagenette"), *class_list_called("imagewoof"), *class_list_called("imageidc")}
    for split in ("train", "val"):
        for wnid in imagenet_names():
            place = folder / "data/imagenet" / split / wnid
            place.mkdir(parents=True)
            for number in range((100 if wnid in many else 50) if split == "train" else 1):
                os.close(os.open(place / f"{wnid}_{number}.JPEG", os.O_CREAT))
    weights = folder / "weights"
    save_dit(weights / "DiT-XL-2-256", dit(layers=1, size=32))
    kl(blocks=4).save_pretrained(weights / "sd-vae-ft-mse")
    save_file(dit(layers=1).state_dict(), weights / "resnet18.safetensors")


def preset(name: str) -> dict[str, Any]:
    """An experiment file with the choice that the name ends with: `imagenette`, `ld3m a`."""
    stem, _, variant = name.partition(" ")
    config = yaml.safe_load((EXPERIMENTS / f"{stem}.yaml").read_text("utf-8"))
    return {**config, "variant": variant} if variant else config
