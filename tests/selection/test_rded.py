"""What RDED promises: each of its images is made of the crops of its class that a network finds easiest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, CPU, NETWORK, SIDE, digits, image_set_of
from torch import Tensor
from torch.nn import functional as F

from distillery.data import pixels as pixels_module
from distillery.data.reading import ImageTable
from distillery.errors import BadInput, DamagedArtifact
from distillery.selection.rded import crop_losses, rded_images, stitched
from distillery.storage.images import ImageSet, write_images
from distillery.streams import stream
from distillery.students.augment import draw_crops, resized_crop
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import train_network

COUNT = 120
KEY = (0, "rded")


def table_of(images: ImageSet, path: Path) -> ImageTable:
    write_images(path, images, {"stage": "ingest"})
    return ImageTable(path)


@pytest.fixture(scope="module")
def real() -> ImageSet:
    return image_set_of(*(values[:COUNT] for values in digits()))


@pytest.fixture(scope="module")
def table(real: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> ImageTable:
    return table_of(real, tmp_path_factory.mktemp("rded") / "train.parquet")


@pytest.fixture(scope="module")
def network() -> Classifier:
    classifier = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("rded",))
    recipe = Recipe(epochs=10, batch_size=16, learning_rate=2e-3)
    train_network(classifier, *(values[:COUNT] for values in digits()), recipe, key=("rded",), device=CPU)
    return classifier


def made(table: ImageTable, network: Classifier, ipc: int = 2, **options: Any) -> ImageSet:
    return rded_images(table, ipc, network, seed=0, key=KEY, **options)


def content(images: ImageSet) -> dict[str, bytes]:
    return dict(zip(images.paths, images.images, strict=True))


def by_hand(network: Classifier, label: int, crops: int, factor: int) -> list[tuple[float, Tensor]]:
    """Loss and pixels of the easiest crop of each image of a class, the easiest image first."""
    found = []
    stored, labels = (values[:COUNT] for values in digits())
    for row in (labels == label).nonzero()[:, 0].tolist():
        draws = stream(*KEY, CLASSES[label], f"{CLASSES[label]}/{row:05d}.png")
        boxes = draw_crops(crops, SIDE, SIDE, (0.08, 1.0), (1.0, 1.0), draws)
        candidates = []
        for box in boxes:
            small = resized_crop(stored[row : row + 1].float(), box[None], SIDE // factor)
            shown = torch.full((1, 1, SIDE, SIDE), 127.5)  # the mean of the domain, in bytes
            edge = (SIDE - SIDE // factor) // 2
            shown[..., edge : edge + SIDE // factor, edge : edge + SIDE // factor] = small
            with torch.no_grad():
                loss = F.cross_entropy(network(shown / 127.5 - 1), torch.tensor([label])).item()
            candidates.append((loss, small[0]))
        found.append(min(candidates, key=lambda candidate: candidate[0]))
    return sorted(found, key=lambda candidate: candidate[0])


@pytest.mark.parametrize(("factor", "ipc"), [(2, 3), (1, 4)])
def test_an_image_is_made_of_the_easiest_crops_of_its_class(
    factor: int, ipc: int, table: ImageTable, network: Classifier
) -> None:
    """The first `ipc` of the ranking are the upper left tiles, the next ones the tiles beside them, and so on."""
    images = made(table, network, ipc, factor=factor, crops=3)
    pixels, side = images.pixels(), SIDE // factor
    for label in range(len(CLASSES)):
        ranked = by_hand(network, label, 3, factor)[: ipc * factor**2]
        for rank, (loss, crop) in enumerate(ranked):
            tile, slot = divmod(rank, ipc)
            row = slot * len(CLASSES) + label
            top, left = side * (tile // factor), side * (tile % factor)
            assert images.columns["cross_entropy"][row, tile] == pytest.approx(loss, rel=1e-3, abs=1e-5)
            found = torch.from_numpy(pixels[row, :, top : top + side, left : left + side]).float()
            assert (found - crop).abs().max() <= 0.5 + 1e-3


def test_images_stand_in_the_order_of_slots_and_classes(table: ImageTable, network: Classifier) -> None:
    images = made(table, network)
    assert images.pixels().shape == (2 * len(CLASSES), 1, SIDE, SIDE)
    assert images.labels.tolist() == [*range(len(CLASSES))] * 2
    assert images.columns["slot"].tolist() == [0] * len(CLASSES) + [1] * len(CLASSES)
    assert len(set(images.paths)) == len(images) and images.classes == CLASSES


def test_more_crops_of_an_image_find_easier_ones(table: ImageTable, network: Classifier) -> None:
    few, many = (made(table, network, crops=crops).columns["cross_entropy"].mean() for crops in (1, 8))
    assert many < few


def test_fewer_images_that_are_considered_leave_harder_crops(table: ImageTable, network: Classifier) -> None:
    few, many = (made(table, network, images_per_class=count).columns["cross_entropy"].mean() for count in (8, COUNT))
    assert many < few


@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_an_image_does_not_depend_on_the_batch(batch_size: int, table: ImageTable, network: Classifier) -> None:
    images, other = made(table, network), made(table, network, batch_size=batch_size)
    assert content(images) == content(other)
    np.testing.assert_allclose(images.columns["cross_entropy"], other.columns["cross_entropy"], rtol=1e-3, atol=1e-5)


def test_an_image_does_not_depend_on_the_order_of_the_table(
    real: ImageSet, table: ImageTable, network: Classifier, tmp_path: Path
) -> None:
    shuffled = real.take(np.random.default_rng(0).permutation(len(real)))
    assert content(made(table_of(shuffled, tmp_path / "train.parquet"), network)) == content(made(table, network))


def test_a_class_does_not_depend_on_the_images_of_the_others(
    real: ImageSet, table: ImageTable, network: Classifier, tmp_path: Path
) -> None:
    fewer = real.take([row for row in range(len(real)) if real.labels[row] != 1 or row < COUNT // 2])
    whole, part = (content(made(source, network)) for source in (table, table_of(fewer, tmp_path / "train.parquet")))
    changed = {path for path in whole if whole[path] != part[path]}
    assert changed and all(path.startswith(f"{CLASSES[1]}/") for path in changed)


def test_another_key_draws_other_crops(table: ImageTable, network: Classifier) -> None:
    other = rded_images(table, 2, network, seed=0, key=(0, "other"))
    assert not set(content(other).values()) & set(content(made(table, network)).values())


def test_equal_losses_go_to_the_first_crop_and_the_lowest_id(table: ImageTable) -> None:
    """A network that answers every image alike: what is chosen is the order itself."""
    alike = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("alike",)).eval().requires_grad_(False)
    for parameter in alike.parameters():
        parameter.zero_()
    images = made(table, alike, ipc=1)
    stored, labels = (values[:COUNT] for values in digits())
    rows = (labels == 0).nonzero()[:4, 0]
    keys = [(*KEY, CLASSES[0], f"{CLASSES[0]}/{row:05d}.png") for row in rows.tolist()]
    boxes = torch.stack([draw_crops(5, SIDE, SIDE, (0.08, 1.0), (1.0, 1.0), stream(*key))[0] for key in keys])
    tiles = resized_crop(stored[rows].float(), boxes, SIDE // 2).round().byte().numpy()
    expected = np.block([[tiles[0, 0], tiles[1, 0]], [tiles[2, 0], tiles[3, 0]]])
    assert np.array_equal(images.pixels()[0, 0], expected)


def test_tiles_of_a_side_that_the_factor_does_not_divide_cover_it(tmp_path: Path) -> None:
    """Flat images tell the tiles apart: 16 = 6 + 5 + 5, in reading order."""
    grey = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(9, 1, SIDE, SIDE) * 20 + 10
    table = table_of(image_set_of(grey, torch.zeros(9, dtype=torch.long)), tmp_path / "train.parquet")
    boxes = torch.tensor([0, 0, SIDE, SIDE]).expand(1, 9, 4)
    rows = np.array([[4, 0, 8, 2, 6, 1, 3, 7, 5]])
    pixels = stitched(table, rows, boxes, 3)
    part = torch.tensor([0] * 6 + [1] * 5 + [2] * 5)
    expected = torch.from_numpy(rows)[0][3 * part[:, None] + part] * 20 + 10
    assert torch.equal(pixels[0, 0].long(), expected)


def test_sets_that_do_not_fit_the_memory_are_the_same(
    table: ImageTable, network: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = content(made(table, network))
    monkeypatch.setattr(pixels_module, "MOST_IN_MEMORY", 100)
    assert content(made(table, network)) == in_memory


def test_a_network_of_another_side_sees_the_crops_scaled(table: ImageTable) -> None:
    larger = Classifier(NETWORK, CLASSES, Domain(2 * SIDE, 1), ("larger",)).eval()
    boxes = torch.tensor([0, 0, SIDE, SIDE]).expand(2, 1, 4)
    losses = crop_losses(table, np.array([3, 9]), boxes, larger, factor=1)
    stored, labels = digits()
    with torch.no_grad():
        logits = larger(stored[[3, 9]].float() / 127.5 - 1)
    expected = F.cross_entropy(logits, labels[[3, 9]], reduction="none")
    torch.testing.assert_close(torch.from_numpy(losses)[:, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"ipc": 20}, {"ipc": 2, "images_per_class": 7}, {"ipc": 2, "factor": 4}])
def test_a_class_with_too_few_images_is_refused(
    options: dict[str, int], table: ImageTable, network: Classifier
) -> None:
    with pytest.raises(BadInput, match=r"crops of class 'zero' are needed, each of an image of its own"):
        made(table, network, **options)


def test_a_network_that_has_diverged_is_refused(table: ImageTable) -> None:
    lost = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("lost",)).eval().requires_grad_(False)
    next(lost.parameters()).fill_(float("nan"))
    with pytest.raises(BadInput, match="diverged"):
        made(table, lost)


def test_an_image_that_cannot_be_read_names_its_table(real: ImageSet, network: Classifier, tmp_path: Path) -> None:
    broken = [*real.images[:5], b"no picture", *real.images[6:]]
    images = ImageSet(broken, real.labels, real.classes, real.paths)
    with pytest.raises(DamagedArtifact, match=r"train\.parquet"):
        made(table_of(images, tmp_path / "train.parquet"), network)
