"""Images that are larger than the memory: the same numbers, in a file of which the system keeps what is in use."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tiny import CPU, World, digits, image_set_of
from torch.nn import functional as F

from distillery.data import pixels as store
from distillery.data.pixels import decoded, load_pixels, room_for
from distillery.data.reading import ImageTable
from distillery.errors import DamagedArtifact
from distillery.storage.images import ImageSet, encode_png, read_images, write_images
from distillery.students import augment
from distillery.students.features import features_of
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import train_network

MEGABYTE = 2**20


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is larger than a kilobyte lies in a file."""
    monkeypatch.setattr(store, "MOST_IN_MEMORY", 1024)


def grown(make: Callable[[], torch.Tensor]) -> float:
    """Megabytes of memory of its own, without mapped files, that the process has gained while the result lives."""

    def own() -> int:
        memory = psutil.Process().memory_info()
        return memory.rss - memory.shared

    # The C library keeps what earlier tests freed, and would give it out again without a new page.
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
    before = own()
    kept = make()
    assert int(kept[-1].sum()) > 0
    return (own() - before) / MEGABYTE


def test_a_large_tensor_takes_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def filled() -> torch.Tensor:
        return room_for((64, MEGABYTE)).fill_(7)

    assert grown(filled) > 50
    monkeypatch.setattr(store, "MOST_IN_MEMORY", MEGABYTE)
    assert grown(filled) < 10


def test_a_file_holds_any_type_and_leaves_nothing_behind(
    in_files: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = room_for((100, 3, 2), torch.float32)
    assert made.dtype == torch.float32 and made.shape == (100, 3, 2)
    assert not made.any()
    made[:] = torch.arange(600.0).view(100, 3, 2)
    assert made.flatten().tolist() == list(range(600))
    assert not list(tmp_path.iterdir())


def test_images_are_the_same_from_a_file(world: World, in_files: None) -> None:
    pixels, labels, classes, paths = load_pixels(world.data)
    assert pixels.equal(digits()[0])
    assert labels.equal(digits()[1])
    assert len(paths) == len(pixels) and len(classes) == 4
    assert decoded(read_images(world.data, "test")).equal(pixels)


def test_a_network_learns_the_same_from_a_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, found = Recipe(epochs=1, batch_size=64, learning_rate=2e-3, size=12), []
    for most in (2**30, 1024):
        monkeypatch.setattr(store, "MOST_IN_MEMORY", most)
        pixels, labels, classes, _ = load_pixels(world.data)
        network = Classifier("convnet1_w8", classes, Domain.of(pixels, recipe), ("file",))
        train_network(network, pixels, labels, recipe, key=("file",), device=CPU)
        found.append(torch.cat([value.flatten() for value in network.state_dict().values()]))
    assert found[0].equal(found[1])


@pytest.mark.parametrize("most", [2**30, 1024])
def test_resizing_in_pieces_is_resizing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_IN_MEMORY", most)
    images = digits()[0][:700].repeat(2, 1, 1, 1)
    whole = F.interpolate(images, (9, 9), mode="bilinear", antialias=True)
    assert augment.resize(images, 9).equal(whole)


def test_networks_read_a_table_as_they_read_a_tensor(world: World) -> None:
    table, (pixels, labels) = ImageTable(world.data), digits()
    assert table.shape == (1, 16, 16)
    assert features_of(world.reference, table, 100).equal(features_of(world.reference, pixels, 100))
    scores = [world.scorer().score_stored(images, labels, 100) for images in (table, pixels)]
    assert scores[0].learnability.equal(scores[1].learnability)


def test_images_of_two_sizes_and_a_table_of_none_are_refused(tmp_path: Path) -> None:
    sides = [4] * 300 + [6]
    images = [encode_png(np.zeros((1, side, side), np.uint8)) for side in sides]
    path = tmp_path / "two.parquet"
    write_images(path, ImageSet(images, np.zeros(301, np.int64), ["a"], [str(row) for row in range(301)]), {})
    with pytest.raises(DamagedArtifact, match=r"two.parquet.*(same shape|images of \(1, 4, 4\) and of)"):
        load_pixels(path)
    with pytest.raises(ValueError, match=r"images of \(1, 4, 4\) and of \(1, 6, 6\)"):
        decoded(ImageSet(images, np.zeros(301, np.int64), ["a"], [str(row) for row in range(301)]))
    write_images(tmp_path / "none.parquet", image_set_of(*(values[:0] for values in digits())), {})
    with pytest.raises(DamagedArtifact, match=r"none.parquet.*holds no images"):
        load_pixels(tmp_path / "none.parquet")
