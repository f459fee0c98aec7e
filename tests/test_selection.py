"""What random selection promises: an order of its own for every class, whose beginnings are the smaller sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import CLASSES, MADE_BY, digits, image_set_of, job

from distillery.artifacts import ImageSet, read_images, write_images
from distillery.job import BadInput
from distillery.selection.random import ordered_by_slot, random_order
from distillery.stages import select

C = len(CLASSES)


@pytest.fixture(scope="module")
def real() -> ImageSet:
    return image_set_of(*(values[:200] for values in digits()))


def chosen(images: ImageSet, label: int, count: int, seed: int = 0) -> list[str]:
    """Ids of the chosen images, in order."""
    return [images.paths[row] for row in random_order(images, label, count, seed)]


def test_every_image_is_of_its_class_and_comes_once(real: ImageSet) -> None:
    for label, name in enumerate(CLASSES):
        images = chosen(real, label, 20)
        assert len(set(images)) == 20
        assert all(image.startswith(f"{name}/") for image in images)


@pytest.mark.parametrize("label", range(C))
def test_a_larger_set_begins_with_the_smaller_one(label: int, real: ImageSet) -> None:
    whole = chosen(real, label, 40)
    for count in (1, 2, 10, 39):
        assert chosen(real, label, count) == whole[:count]


def test_the_seed_decides(real: ImageSet) -> None:
    assert chosen(real, 0, 10, seed=1) == chosen(real, 0, 10, seed=1)
    assert chosen(real, 0, 10, seed=1) != chosen(real, 0, 10, seed=2)


def test_the_order_of_the_rows_does_not_matter(real: ImageSet) -> None:
    turned = real.take(np.random.default_rng(0).permutation(len(real)))
    assert chosen(turned, 2, 20) == chosen(real, 2, 20)


def test_other_classes_do_not_matter(real: ImageSet) -> None:
    alone = real.take(np.flatnonzero(real.labels == 3))
    alone.classes, alone.labels = ["three"], np.zeros(len(alone), dtype=np.int64)
    assert chosen(alone, 0, 20) == chosen(real, 3, 20)


def test_an_image_that_joins_takes_a_place_and_leaves_the_order_of_the_others(real: ImageSet) -> None:
    every = chosen(real, 1, 40)
    fewer = real.take([row for row, path in enumerate(real.paths) if path != every[5]])
    assert chosen(fewer, 1, 39) == every[:5] + every[6:]


def test_every_image_has_its_chance(real: ImageSet) -> None:
    """Over 200 seeds the first choice of a class falls on most of its 50 images."""
    first = [chosen(real, 0, 1, seed)[0] for seed in range(200)]
    assert len(set(first)) > 40
    assert max(first.count(path) for path in set(first)) < 20


def test_a_class_of_fewer_images_is_refused_by_its_name(real: ImageSet) -> None:
    with pytest.raises(BadInput, match=r"ipc: class 'two' has \d+ training images, fewer than 1000"):
        random_order(real, 2, 1000, 0)


def test_the_set_is_ordered_by_slot_then_class(real: ImageSet) -> None:
    orders = [random_order(real, label, 3, 0) for label in range(C)]
    taken = ordered_by_slot(real, orders)
    assert taken.labels.tolist() == [*range(C)] * 3
    assert taken.columns["slot"].tolist() == [slot for slot in range(3) for _ in range(C)]
    assert taken.paths == [real.paths[orders[label][slot]] for slot in range(3) for label in range(C)]


def test_the_stage_keeps_the_bytes_of_the_images(real: ImageSet, tmp_path: Path) -> None:
    write_images(tmp_path / "train.parquet", real, MADE_BY)
    sets = {}
    for ipc in (2, 5):
        settings = select.Settings(seed=0, kind="random", ipc=ipc)
        out = tmp_path / f"{ipc}.parquet"
        select.run(settings, data=tmp_path / "train.parquet", images=out, job=job("select", settings))
        sets[ipc] = read_images(out, "select")
    content = dict(zip(real.paths, real.images, strict=True))
    assert [content[path] for path in sets[5].paths] == sets[5].images
    assert sets[5].paths[: 2 * C] == sets[2].paths
    assert sets[5].classes == CLASSES
