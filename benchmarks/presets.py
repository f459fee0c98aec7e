"""Every preset of ImageNet cut down and run to its end: two classes of noise, six sampling steps, tiny weights.

    python benchmarks/presets.py                      # all of them
    python benchmarks/presets.py --only imagenette "ld3m a"

Each file keeps its stages, methods, guidances, protocols and networks; weights have the published layouts. Images have
64 px, sets one and two images per class, trainings an epoch or a few steps. A preset has passed where Snakemake ends
and a dry run afterwards has nothing to do.
The table goes to results/benchmarks/presets.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image
from safetensors.torch import save_file

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "tests/support"))

from clone import Clone  # noqa: E402
from tiny_weights import dit, kl, save_dit, save_ldm  # noqa: E402

from distillery.data.identity import class_list_called  # noqa: E402
from distillery.plan.load import unchecked  # noqa: E402

SIDE, LATENT_SIDE, CLASSES = 64, 8, 2
TRAINING_IMAGES, TEST_IMAGES = 16, 4
"""Of a class. A factor of eight lies between the sides, as with the published autoencoder."""

MATCHED = ("ld3m", "autoencoder", "pixel", "idc")
"""Kinds of methods whose images are optimised."""

TABLE = PROJECT / "results/benchmarks/presets.csv"


def presets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of each preset of ImageNet, a choice of its file at a time."""
    for path in sorted((PROJECT / "experiments").glob("*.yaml")):
        config = yaml.safe_load(path.read_text("utf-8"))
        if config["dataset"]["source"].get("train") == "data/imagenet/train":
            for variant in config.get("variants") or [""]:
                yield f"{path.stem} {variant}".strip(), {**config, **({"variant": variant} if variant else {})}


def cut_down(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same experiment for two classes at 64 px, with as little of everything as its stages can do with."""
    blocks = unchecked(config).model_dump(mode="json", exclude={"variants", "variant"}, exclude_unset=True)
    dataset, evaluation, analysis = blocks["dataset"], blocks["evaluation"], blocks.get("analysis", {})
    dataset.update(resolution=SIDE, classes=class_list_called(name_of_classes(config))[:CLASSES])
    blocks["ipc"] = [1, 2] if len(blocks["ipc"]) > 1 else [1]
    _cut_models(blocks)
    _cut_methods(blocks)
    blocks["latents"] = {**blocks.get("latents", {}), "shards": 1}
    protocols = evaluation["protocol"] if isinstance(evaluation["protocol"], list) else [evaluation["protocol"]]
    protocols = [protocol if isinstance(protocol, dict) else {"preset": protocol} for protocol in protocols]
    short = {"epochs": 1, "evaluations": 1}
    evaluation.update(students=1, protocol=[{**each, **short} for each in protocols])
    if redundancy := analysis.get("redundancy"):
        redundancy.update(ipc=2, increment_size=1, students=1)
    if dynamics := analysis.get("incremental_dynamics"):
        dynamics.update(increment_size=1, epochs=2, students=1, looks=1)
    return blocks


def _cut_models(blocks: dict[str, Any]) -> None:
    """Generators, references, surrogates and experts with the least steps."""
    for generator in blocks.get("generators", {}).values():
        generator["sampling"] = {**generator.get("sampling", {}), "steps": 6}
        if generator["kind"] != "pretrained":
            generator.update({"epochs": 1} if "epochs" in generator else {"steps": 6})
        if "groups" in generator:
            generator["groups"] = CLASSES
    for network in [*blocks.get("references", {}).values(), *blocks.get("surrogates", {}).values()]:
        network["training"] = {**network.get("training", {"preset": "reference"}), "epochs": 1}
        if "keep" in network:
            network["keep"] = [0, 1]
        if "weights" in network:
            network["rows"] = [*range(CLASSES)]
    for experts in blocks.get("experts", {}).values():
        experts |= {"count": 1, "per_shard": 1}


def _cut_methods(blocks: dict[str, Any]) -> None:
    """Methods in one shard, increments of one image, matching of two iterations."""
    for method in blocks["methods"].values():
        method.update({key: 1 for key in ("shards", "increment_size") if key in method})
        if method["kind"] in MATCHED:
            method["iterations"] = 2
        if method["kind"] == "idc":
            method.update(inner=2, images=8, batch_real=4)
        if "chain" in method:
            method["chain"]["steps"] = 2
    if any(method["kind"] in MATCHED for method in blocks["methods"].values()):
        blocks["matching"] = {**blocks.get("matching", {}), "every": 1, "students": 1}


def name_of_classes(config: Mapping[str, Any]) -> str:
    """The name of the class list that the file names."""
    variant = config.get("variants", {}).get(config.get("variant", ""), {})
    return str(variant.get("dataset", {}).get("classes", config["dataset"]["classes"]))


def furnish(folder: Path, wnids: list[str]) -> None:
    """Noise for pictures, and weights in the published layouts."""
    random = np.random.default_rng(0)
    for split, images in (("train", TRAINING_IMAGES), ("val", TEST_IMAGES)):
        for wnid in wnids:
            place = folder / "data/imagenet" / split / wnid
            place.mkdir(parents=True, exist_ok=True)
            for number in range(images):
                buffer = BytesIO()
                Image.fromarray(random.integers(0, 256, (96, 80, 3), dtype=np.uint8)).save(buffer, "JPEG")
                (place / f"{wnid}_{number}.JPEG").write_bytes(buffer.getvalue())
    save_dit(folder / "weights/DiT-XL-2-256", dit(size=LATENT_SIDE))
    kl(blocks=4).save_pretrained(folder / "weights/sd-vae-ft-mse")
    save_ldm(folder / "weights/cin256-v2")
    save_ldm(folder / "weights/ldm-celebahq-256", classes=None)
    import timm

    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), folder / "weights/resnet18.safetensors")


def run(name: str, config: Mapping[str, Any], cores: int) -> dict[str, Any]:
    """Run a preset in a folder of its own; what came out, as a row of the table."""
    with tempfile.TemporaryDirectory() as parent:
        clone = Clone.of_project(Path(parent) / "clone")
        small = cut_down(config)
        furnish(clone.folder, small["dataset"]["classes"])
        path = clone.folder / "experiments/small.yaml"
        path.write_text(yaml.safe_dump(deepcopy(small), sort_keys=False), "utf-8")
        command = ["snakemake", "--cores", str(cores), "--configfile", str(path)]
        start = time.monotonic()
        done = subprocess.run(
            command,
            cwd=clone.folder,
            env={**os.environ, **clone.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        text = done.stdout + done.stderr
        again = "Nothing to be done" in clone.dry_run("--configfile", str(path))[1] if done.returncode == 0 else False
        jobs = len(list(clone.folder.glob("results/*/**/cost/**/*.json")))
        failed = "\n".join(text.splitlines()[-60:]) if done.returncode or not again else ""
        if failed:
            print(failed, flush=True)
        return {"preset": name, "jobs": jobs, "seconds": round(seconds), "passed": not failed}


def main() -> None:
    """Run the presets that are asked for, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="names of presets, each with its choice: imagenette, 'ld3m a'")
    parser.add_argument("--cores", type=int, default=2)
    given = parser.parse_args()
    rows = []
    for name, config in presets():
        if given.only is None or name in given.only:
            rows.append(run(name, config, given.cores))
            print(rows[-1], flush=True)
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["preset", "jobs", "seconds", "passed"])
        writer.writeheader()
        writer.writerows(rows)
    sys.exit(not all(row["passed"] for row in rows))


if __name__ == "__main__":
    main()
