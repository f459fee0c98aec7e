"""What the method of stitched crops promises: it refuses what cannot be stitched, and its stage makes its sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from clone import PROJECT, SMOKE
from tiny import CLASSES, SIDE, World, digits, job

from distillery.errors import ExperimentError
from distillery.methods.base import Part
from distillery.methods.rded import RDED
from distillery.plan.load import load
from distillery.stages import stitch_crops
from distillery.storage.images import ImageSet, read_images

Stitch = Callable[..., Path]


def experiment(ipc: list[int], **options: Any) -> Any:
    """The smoke experiment, of 16 px and about 89 training images per class, with a method of this kind."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
    config["methods"]["stitched"] = {"kind": "rded", "reference": "real", **options}
    config["ipc"] = ipc
    return load(config)


@pytest.mark.parametrize(
    ("ipc", "options", "line"),
    [
        ([2], {"reference": "reel"}, "methods.stitched.reference: no reference 'reel'; references: real"),
        ([2], {"scale": [0.5, 0.25]}, "methods.stitched.scale: 0.5 lies above 0.25; allowed: the smaller one first"),
        ([1], {"factor": 17, "images_per_class": 300}, "methods.stitched.factor: 17 crops in a row of 16 pixels;"),
        (
            [1, 2],
            {"factor": 3, "images_per_class": 17},
            "methods.stitched.images_per_class: 17 images for the 18 crops of a class at ipc 2, each of an image of "
            "its own; allowed: 18 or more",
        ),
        (
            [1, 2],
            {"factor": 7},
            "methods.stitched.factor: 98 crops of a class at ipc 2, each of an image of its own, but class ",
        ),
    ],
    ids=["reference", "scale", "pixels", "images_per_class", "images of a class"],
)
def test_a_method_that_cannot_be_stitched_is_refused(ipc: list[int], options: dict[str, Any], line: str) -> None:
    with pytest.raises(ExperimentError) as refused:
        experiment(ipc, **options)
    assert str(refused.value).startswith(line)


def test_the_smallest_numbers_that_are_enough_are_taken() -> None:
    block = experiment([1, 2], factor=3, images_per_class=18).methods["stitched"]
    assert block.needs.reference == "real"


def test_defaults_are_published() -> None:
    block = RDED(kind="rded", reference="real")
    assert (block.factor, block.crops, block.images_per_class, block.scale) == (2, 5, 300, [0.08, 1.0])


def test_every_size_is_one_set_of_its_own() -> None:
    block = RDED(kind="rded", reference="real")
    assert not block.nested
    assert [block.parts(ipc, [1, 2]) for ipc in (1, 2)] == [[Part("selected", {"ipc": ipc})] for ipc in (1, 2)]


def test_the_stream_of_a_set_is_not_told_twice() -> None:
    """Methods of one stream and of other names have equal settings, so that they have equal sets."""
    shared = experiment([2], stream="crops")
    settings = stitch_crops.Settings.of(shared, "", "stitched", "2")
    assert (settings.stream, settings.method.stream, settings.ipc) == ("crops", None, 2)
    assert stitch_crops.Settings.of(experiment([2]), "", "stitched", "2").stream == "stitched"


@pytest.fixture
def stitch(world: World, tmp_path: Path) -> Stitch:
    def made(name: str, ipc: int = 3, stream: str = "rded", **options: Any) -> Path:
        method = RDED(kind="rded", reference="real", crops=2, images_per_class=20, **options)
        settings = stitch_crops.Settings(seed=0, stream=stream, method=method, ipc=ipc)
        out, network = tmp_path / name, world.networks["reference"]
        run = job("stitch_crops", settings, [world.data, network])
        stitch_crops.run(settings, data=world.data, reference=network, images=out, job=run)
        return out

    return made


def stitched(path: Path) -> ImageSet:
    return read_images(path, "stitch_crops")


def test_the_stage_makes_images_of_each_class_and_the_same_bytes_twice(stitch: Stitch) -> None:
    first = stitch("first.parquet")
    images = stitched(first)
    assert images.pixels().shape == (3 * len(CLASSES), 1, SIDE, SIDE)
    assert images.labels.tolist() == [*range(len(CLASSES))] * 3
    assert images.columns["slot"].tolist() == [slot for slot in range(3) for _ in CLASSES]
    assert images.columns["cross_entropy"].shape == (3 * len(CLASSES), 4)
    assert stitch("second.parquet").read_bytes() == first.read_bytes()


def test_an_image_of_whole_pictures_is_made_of_training_images(stitch: Stitch) -> None:
    """With one crop of the whole area in an image, the training images come out as they are."""
    whole = stitched(stitch("whole.parquet", factor=1, scale=[1.0, 1.0]))
    pixels, labels = digits()
    for image, label in zip(whole.pixels(), whole.labels, strict=True):
        assert (np.abs(pixels[labels == label].numpy().astype(int) - image).reshape(-1, SIDE**2).max(1) == 0).any()


def test_another_stream_draws_other_crops(stitch: Stitch) -> None:
    one, other = (set(stitched(stitch(f"{stream}.parquet", stream=stream)).images) for stream in ("rded", "other"))
    assert not one & other
