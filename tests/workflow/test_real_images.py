"""From a folder of pictures and pretrained weights to distilled sets: tiny models in the real layouts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from broken_images import encoded, picture
from clone import Clone
from diffusers import DiTPipeline
from safetensors import safe_open
from tiny_weights import SIDE, dit, kl, save_dit, tiny

from distillery.storage.atomic import read_json
from distillery.storage.images import read_images

CLASSES = ["church", "n01440764", "my cat"]
FILE = "real.yaml"

EXPERIMENT: dict[str, Any] = {
    "name": "real",
    "seeds": [0],
    "dataset": {
        "source": {"kind": "folder", "train": "pictures"},
        "resolution": SIDE,
        "classes": ["n01440764", "church", "my cat"],
        "holdout": {"fraction": 0.3},
    },
    "autoencoder": {"kind": "pretrained", "weights": "./weights/pipeline", "subfolder": "vae", "scaling_factor": 0.5},
    "guidance_autoencoder": {"kind": "pretrained", "weights": "./weights/tiny", "scaling_factor": 0.5},
    "latents": {"shards": 2, "mirrored": True, "batch_size": 4},
    "generators": {
        "big": {"kind": "pretrained", "weights": "./weights/pipeline"},
        "tuned": {
            "kind": "finetune",
            "base": "big",
            "unknown_classes": "new_row",
            "steps": 3,
            "batch_size": 4,
            "accumulate": 2,
            "flip": True,
            "ema_decay": 0.5,
            "sampling": {"steps": 3, "guidance_scale": 1.5, "cfg_channels": 3},
        },
    },
    "references": {"real": {"network": "convnet2_w8", "training": {"preset": "reference", "epochs": 1}}},
    "methods": {
        "tuned": {"kind": "plain", "generator": "tuned"},
        "lgd": {
            "kind": "lgd",
            "generator": "tuned",
            "reference": "real",
            "increment_size": 1,
            "candidates": 2,
            "student": {"protocol": {"preset": "small", "epochs": 2}},
            "guidance": {"learnability": {"strength": 2.0, "reference_weight": 1.0}},
        },
    },
    "ipc": [2],
    "evaluation": {
        "protocol": {"preset": "small", "epochs": 2},
        "networks": ["convnet2_w8"],
        "students": 1,
        "full_data": False,
    },
}


METHODS = ["tuned", "lgd", "random"]
TARGETS = [
    *(f"results/real/distilled/{method}/ipc2.parquet" for method in METHODS),
    "results/real/tables/autoencoder.csv",
]
"""What follows a set is the same for all data, and is run by other tests."""


def made(folder: Path) -> Clone:
    """A copy of the project with pictures and weights."""
    clone = Clone.of_project(folder)
    for number, name in enumerate(CLASSES):
        place = clone.folder / "pictures" / name
        place.mkdir(parents=True)
        for row in range(6):
            (place / f"{row}.jpg").write_bytes(encoded(picture(30 + row, 41, 10 * number + row), "JPEG"))
    save_dit(clone.folder / "weights/pipeline", dit(layers=1))
    kl().save_pretrained(clone.folder / "weights/pipeline/vae")
    tiny().save_pretrained(clone.folder / "weights/tiny")
    kl(blocks=3).save_pretrained(clone.folder / "weights/large")
    save_dit(clone.folder / "weights/classless", dit(layers=1))
    (clone.folder / FILE).write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False), "utf-8")
    return clone


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tree of the one run; nobody changes it."""
    clone = made(tmp_path_factory.mktemp("real") / "clone")
    done = clone.run("snakemake", "--cores", "2", "--configfile", FILE, "--", *TARGETS)
    assert done.returncode == 0, done.stdout
    return clone


def test_what_is_opened_is_opened_once_for_all_seeds(finished: Clone, tmp_path: Path) -> None:
    results = finished.folder / "results/real"
    opened = {path.parent.relative_to(results).as_posix() for path in results.rglob("config.json")}
    tuned = {f"generators/tuned/{part}" for part in ("transformer", "vae")}
    assert opened == {"autoencoder", "guidance_autoencoder", "generators/big/transformer", *tuned}
    assert sorted(path.name for path in results.rglob("latents/*")) == ["train-0.safetensors", "train-1.safetensors"]
    tree = finished.copy(tmp_path / "tree")
    tree.change(lambda experiment: experiment.update(seeds=[0, 1]), experiment=FILE)
    plan = tree.plan(experiment=FILE)
    assert plan.rules["finetune_generator"] == plan.rules["train_reference"] == 1
    assert not {"ingest", "open_autoencoder", "open_generator", "encode_latents"} & set(plan.rules)


def test_a_finished_run_has_nothing_to_do(finished: Clone) -> None:
    assert finished.plan("--", *TARGETS, experiment=FILE).nothing


def test_a_class_that_imagenet_lacks_got_a_row_and_the_others_their_own(finished: Clone) -> None:
    folder = finished.folder / "results/real/generators/tuned"
    names = read_json(folder / "model_index.json", "finetune_generator")["id2label"]
    assert names["1001"] == "my cat"
    assert names["0"].startswith("n01440764, tench")
    assert DiTPipeline.from_pretrained(folder).labels["my cat"] == 1001
    with safe_open(folder / "changed.safetensors", framework="pt") as file:
        assert file.get_tensor("class_rows").tolist() == [0, 497, 1001, 1002]


def test_the_table_says_what_both_autoencoders_keep(finished: Clone) -> None:
    rows = list(csv.DictReader((finished.folder / "results/real/tables/autoencoder.csv").open(newline="")))
    assert [(row["autoencoder"], row["reference"], row["n"]) for row in rows] == [
        ("autoencoder", "real", "1"),
        ("guidance_autoencoder", "real", "1"),
    ]
    for row in rows:
        assert 0 < float(row["psnr"]) < 60
        assert float(row["lost"]) == pytest.approx(
            float(row["accuracy"]) - float(row["accuracy_reconstructed"]), abs=0.02
        )


def test_every_method_has_its_images_in_the_order_of_the_experiment(finished: Clone) -> None:
    for method in METHODS:
        images = read_images(finished.folder / f"results/real/distilled/{method}/ipc2.parquet", "collect")
        assert images.classes == ["n01440764", "church", "my cat"]
        assert np.bincount(images.labels).tolist() == [2, 2, 2]
        assert images.pixels().shape[1:] == (3, SIDE, SIDE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e["dataset"].update(resolution=32), "takes latents of 4 x 8 x 8, and the autoencoder gives 4 x 16"),
        (lambda e: e["generators"]["big"].update(weights="./weights"), "weights/transformer/config.json: no such file"),
        (lambda e: e["generators"]["tuned"]["sampling"].update(cfg_channels=5), "cfg_channels: 5 of 4 channels"),
        (
            lambda e: e["guidance_autoencoder"].update(weights="./weights/large"),
            "guidance_autoencoder.weights: ./weights/large makes latents of 4 channels and 1/4 of the side, and the"
            " autoencoder of 4 and 1/2",
        ),
        (
            lambda e: e["dataset"].update(channels="grey"),
            "autoencoder.weights: ./weights/pipeline takes images of 3 channels, and dataset.channels has 1",
        ),
        (
            lambda e: e["generators"]["tuned"].update(unknown_classes="error"),
            "generators.big.weights: ./weights/pipeline knows no class 'my cat'; name the classes",
        ),
        (
            lambda e: e["generators"]["big"].update(weights="./weights/classless", classes="own"),
            "generators.big.weights: weights/classless/model_index.json: names no classes (id2label)",
        ),
        (
            lambda e: e["generators"]["big"].update(
                weights="./nowhere", origin="fetch it from the shelf", sha256={"transformer/config.json": "0" * 64}
            ),
            "hub; fetch it from the shelf; transformer/config.json has to have the sha256 00",
        ),
    ],
    ids=[
        *("another shape", "another folder", "more channels", "another decoder", "grey images", "a class of nobody's"),
        *("no names of classes", "weights that are absent"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_runs(change: Any, words: str, tmp_path: Path) -> None:
    clone = made(tmp_path / "clone")
    clone.change(change, experiment=FILE)
    status, printed = clone.dry_run("--configfile", FILE)
    assert status != 0
    assert words in printed
    assert "Traceback" not in printed
