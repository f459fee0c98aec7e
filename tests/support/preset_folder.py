"""A folder in which the experiment files load: images without content, and weights of a few kilobytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from clone import PROJECT
from safetensors.torch import save_file
from tiny_weights import dit, kl, save_dit, save_ldm

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
    save_ldm(weights / "cin256-v2")
    save_ldm(weights / "ldm-celebahq-256", classes=None)
    save_file(dit(layers=1).state_dict(), weights / "resnet18.safetensors")


def other_stand_ins(folder: Path) -> None:
    """The data of the files that read ImageNette from Parquet, or a folder of pictures: names and labels alone."""
    names = class_list_called("imagenette")
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, images in (("train", 900), ("val", 50)):
        rows = [{"image": {"bytes": b"", "path": f"{row}.png"}, "label": row % 10} for row in range(10 * images)]
        pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"data/imagenette128-{split}.parquet")
    for name in names[:3]:
        (folder / "my/pictures" / name).mkdir(parents=True)
        for number in range(100):
            os.close(os.open(folder / "my/pictures" / name / f"{number}.png", os.O_CREAT))


def preset(name: str) -> dict[str, Any]:
    """An experiment file with the choice that the name ends with: `imagenette`, `ld3m a`."""
    stem, _, variant = name.partition(" ")
    config = yaml.safe_load((EXPERIMENTS / f"{stem}.yaml").read_text("utf-8"))
    return {**config, "variant": variant} if variant else config
