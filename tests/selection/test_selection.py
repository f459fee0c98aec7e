"""What the selections promise: an order of its own for every class, whose beginnings are the smaller sets."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import CLASSES, MADE_BY, NETWORK, SIDE, digits, image_set_of, job

from distillery.errors import BadInput, DamagedArtifact
from distillery.methods.selection import Herding, KCenter, Random
from distillery.selection.by_class import most_learnable, order_of_class, read_features
from distillery.selection.herding import herding_order
from distillery.selection.k_center import covering_radius, k_center_order
from distillery.selection.random import ordered_by_slot, random_order
from distillery.stages import extract_features, select
from distillery.storage.images import ImageSet, read_images, write_images
from distillery.students.networks import Classifier, Domain

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


def test_every_image_has_the_same_chance() -> None:
    """Over 10^4 seeds the first choice among 10 images is uniform: chi-square below its 99.9 % quantile."""
    ten = ImageSet([b""] * 10, np.zeros(10, dtype=np.int64), ["one"], [f"one/{number}.png" for number in range(10)])
    first = [random_order(ten, 0, 1, seed)[0] for seed in range(10_000)]
    assert (np.square(np.bincount(first, minlength=10) - 1000) / 1000).sum() < 27.9


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
        settings = select.Settings(seed=0, choice=Random(kind="random"), ipc=ipc)
        out = tmp_path / f"{ipc}.parquet"
        select.run(settings, data=tmp_path / "train.parquet", images=out, job=job("select", settings))
        sets[ipc] = read_images(out, "select")
    content = dict(zip(real.paths, real.images, strict=True))
    assert [content[path] for path in sets[5].paths] == sets[5].images
    assert sets[5].paths[: 2 * C] == sets[2].paths
    assert sets[5].classes == CLASSES


# ---- herding and k-center --------------------------------------------------------------------------------------------

Order = Callable[[np.ndarray, int], list[int]]
ORDERS: dict[str, Order] = {
    "herding": herding_order,
    "herding of unit length": lambda features, count: herding_order(features, count, normalise=True),
    "k-center": k_center_order,
    "k-center by cosine": lambda features, count: k_center_order(features, count, metric="cosine"),
    "k-center from image 7": lambda features, count: k_center_order(features, count, start=7),
}
every_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Features in float32, as networks make them."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def chosen_by(order: Order, images: ImageSet, label: int, count: int) -> list[str]:
    """Ids of the images that are chosen by the feature that stands in a column."""
    features = images.columns["feature"]
    rows = order_of_class(images, label, count, lambda rows: order(features[rows], count))
    return [images.paths[row] for row in rows]


@pytest.fixture(scope="module")
def described() -> ImageSet:
    """Images of four classes with features; the rows are not in the order of the ids."""
    labels = np.arange(120) % C
    names = [f"{CLASSES[label]}/{(7 * row) % 120:03d}.png" for row, label in enumerate(labels.tolist())]
    return ImageSet([b""] * 120, labels, CLASSES, names, {"feature": normal(120, 6)})


@every_order
def test_a_larger_choice_begins_with_the_smaller_one(order: Order) -> None:
    features = normal(40, 5)
    whole = order(features, 40)
    assert sorted(whole) == list(range(40))
    for count in (0, 1, 2, 10, 39):
        assert order(features, count) == whole[:count]


@every_order
@pytest.mark.parametrize("kinds", [1, 3], ids=["all equal", "three kinds"])
def test_duplicates_come_once_each(kinds: int, order: Order) -> None:
    features = np.repeat(normal(kinds, 5), 12 // kinds, axis=0)
    assert sorted(order(features, 12)) == list(range(12))


@every_order
def test_features_of_zero_are_an_order_too(order: Order) -> None:
    assert sorted(order(np.zeros((9, 4), dtype=np.float32), 9)) == list(range(9))


@every_order
def test_the_choice_of_a_class_depends_on_its_own_images_alone(order: Order, described: ImageSet) -> None:
    expected = chosen_by(order, described, 2, 15)
    assert all(path.startswith("two/") for path in expected)

    turned = described.take(np.random.default_rng(0).permutation(len(described)))
    assert chosen_by(order, turned, 2, 15) == expected

    renamed = described.take(range(len(described)))
    others = renamed.labels != 2
    renamed.paths = [f"a{path}" if other else path for path, other in zip(renamed.paths, others, strict=True)]
    renamed.columns["feature"][others] += 100
    assert chosen_by(order, renamed, 2, 15) == expected

    alone = described.take(np.flatnonzero(described.labels == 2))
    alone.classes, alone.labels = ["two"], np.zeros(len(alone), dtype=np.int64)
    assert chosen_by(order, alone, 0, 15) == expected


@every_order
def test_ids_that_keep_their_order_change_nothing(order: Order, described: ImageSet) -> None:
    renamed = described.take(range(len(described)))
    renamed.paths = [f"moved/{path}" for path in described.paths]
    assert chosen_by(order, renamed, 1, 30) == [f"moved/{path}" for path in chosen_by(order, described, 1, 30)]


@every_order
def test_a_class_that_is_too_small_is_refused_with_its_name_and_size(order: Order, described: ImageSet) -> None:
    assert len(set(chosen_by(order, described, 3, 30))) == 30
    with pytest.raises(BadInput, match=r"^ipc: class 'three' has 30 training images, fewer than 31$"):
        chosen_by(order, described, 3, 31)
    with pytest.raises(ValueError, match=r"shape \(30, 6\) for 31 images"):
        order(normal(30, 6), 31)


@every_order
def test_features_that_are_not_finite_are_refused(order: Order) -> None:
    features = normal(10, 4)
    features[3, 1] = np.nan
    with pytest.raises(BadInput, match="diverged"):
        order(features, 2)


def test_ties_go_to_the_lowest_id() -> None:
    """Equal features, and pairs on both sides of the mean, where only rounding tells the candidates apart."""
    labels, names = np.zeros(8, dtype=np.int64), [f"one/{7 - row}.png" for row in range(8)]
    equal = ImageSet([b""] * 8, labels, ["one"], names, {"feature": np.ones((8, 3), dtype=np.float32)})
    for order in (herding_order, k_center_order):
        assert chosen_by(order, equal, 0, 8) == sorted(names)

    direction = normal(20, 64).astype(np.float64)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    pairs = np.stack([direction, -direction], axis=1).reshape(40, 64)
    assert herding_order(pairs, 40) == list(range(40))


def test_herding_is_what_its_two_formulas_say() -> None:
    features = normal(50, 8) + 3
    exact = features.astype(np.float64)
    mean = exact.mean(axis=0)
    by_norm: list[int] = []
    by_products: list[int] = []
    for step in range(1, 51):
        rest = [i for i in range(50) if i not in by_norm]
        total = exact[by_norm].sum(axis=0)
        by_norm.append(min(rest, key=lambda i: np.linalg.norm(step * mean - total - exact[i])))
        rest = [i for i in range(50) if i not in by_products]
        target = step * mean - sum((exact[j] for j in by_products), np.zeros(8))
        by_products.append(min(rest, key=lambda i: exact[i] @ exact[i] - 2 * (target @ exact[i])))
    assert by_norm == by_products
    assert herding_order(features, 50) == by_norm


def test_herding_of_unit_length_is_herding_of_features_of_unit_length() -> None:
    features = normal(50, 8)
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    assert herding_order(features, 20, normalise=True) == herding_order(unit, 20)
    assert herding_order(features, 20, normalise=True) != herding_order(features, 20)


@pytest.mark.parametrize("order", [herding_order, k_center_order])
def test_the_first_choice_lies_closest_to_the_mean(order: Order) -> None:
    for seed in range(5):
        features = normal(60, 8, seed=seed)
        assert order(features, 1) == [np.linalg.norm(features - features.mean(axis=0), axis=1).argmin()]


@pytest.mark.parametrize("count", [10, 50])
def test_herding_keeps_closer_to_the_mean_than_chance(count: int) -> None:
    features = np.maximum(normal(1300, 512), 0)
    mean = features.mean(axis=0)

    def distance(rows: list[int]) -> float:
        return float(np.linalg.norm(features[rows].mean(axis=0) - mean))

    draws = np.random.default_rng(1)
    by_chance = np.mean([distance(draws.permutation(1300)[:count].tolist()) for _ in range(20)])
    assert distance(herding_order(features, count)) < 0.85 * by_chance


@pytest.mark.parametrize("start", [None, 0, 33])
def test_k_center_visits_every_cluster_first(start: int | None) -> None:
    cluster = np.arange(80) % 4
    features = normal(80, 4) * 0.1 + 10 * np.eye(4, dtype=np.float32)[cluster]
    order = k_center_order(features, 4, start=start)
    assert set(cluster[order]) == {0, 1, 2, 3}
    assert start is None or order[0] == start


def test_k_center_by_cosine_ignores_lengths() -> None:
    features = normal(60, 8)
    longer = features * np.float32(2) ** (np.arange(60) % 7)[:, None].astype(np.float32)
    assert k_center_order(longer, 60, metric="cosine") == k_center_order(features, 60, metric="cosine")
    assert k_center_order(longer, 60) != k_center_order(features, 60)


def test_k_center_wants_a_start_of_the_class() -> None:
    for start in (-1, 10):
        with pytest.raises(ValueError, match=f"no row {start} among 10"):
            k_center_order(normal(10, 4), 2, start=start)


def test_the_covering_radius_never_grows_and_ends_at_zero() -> None:
    features = normal(60, 8)
    order = k_center_order(features, 60)
    radii = [covering_radius(features, order[:count]) for count in range(1, 61)]
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] == 0
    apart = np.linalg.norm(features[:, None].astype(np.float64) - features[order[:5]], axis=2)
    assert radii[4] == pytest.approx(apart.min(axis=1).max())


@pytest.mark.parametrize("count", [2, 3, 5])
def test_k_center_covers_within_twice_the_optimum(count: int) -> None:
    for seed in range(3):
        features = normal(12, 2, seed=seed)
        best = min(covering_radius(features, rows) for rows in combinations(range(12), count))
        for start in (None, 0, 11):
            assert covering_radius(features, k_center_order(features, count, start=start)) <= 2 * best


def test_k_center_covers_better_than_chance() -> None:
    features, draws = normal(200, 8), np.random.default_rng(1)
    by_chance = np.mean([covering_radius(features, draws.permutation(200)[:10].tolist()) for _ in range(20)])
    assert covering_radius(features, k_center_order(features, 10)) < by_chance


# ---- features and the stage ------------------------------------------------------------------------------------------


def test_a_selection_by_features_goes_from_images_to_a_set(tmp_path: Path) -> None:
    """Images of a class, what a network sees in them, and the set that each kind of choice makes of it."""
    pixels, labels = digits()
    write_images(tmp_path / "train.parquet", image_set_of(pixels, labels), MADE_BY)
    Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("features",)).save(tmp_path / "network.safetensors", MADE_BY)
    told = extract_features.Settings(reference="real")
    inputs = [tmp_path / "train.parquet", tmp_path / "network.safetensors"]
    made = tmp_path / "features.parquet"
    extract_features.run(
        told, images=inputs[0], reference=inputs[1], features=made, job=job("extract_features", told, inputs)
    )
    real = read_images(inputs[0], "ingest")
    features = read_features(made, real.paths)
    assert features.shape[0] == len(real)
    chosen = {}
    for choice in (Herding(kind="herding", features="real"), KCenter(kind="k_center", features="real", first="random")):
        settings = select.Settings(seed=0, choice=choice, ipc=3)
        out = tmp_path / f"{choice.kind}.parquet"
        select.run(settings, data=inputs[0], features=made, images=out, job=job("select", settings, [inputs[0], made]))
        found = read_images(out, "select")
        assert found.labels.tolist() == [*range(len(CLASSES))] * 3
        assert found.columns["slot"].tolist() == [slot for slot in range(3) for _ in CLASSES]
        chosen[choice.kind] = found.paths
    rows = sorted(np.flatnonzero(real.labels == 0), key=lambda row: real.paths[row])
    first = herding_order(features[rows], 1)[0]
    assert chosen["herding"][0] == real.paths[rows[first]]
    assert chosen["k_center"][0] == real.paths[random_order(real, 0, 1, 0)[0]]
    with pytest.raises(DamagedArtifact, match="it describes other images"):
        read_features(made, real.paths[:5])


# ---- by learnability -------------------------------------------------------------------------------------------------


def named(labels: list[int], paths: list[str], **columns: Any) -> ImageSet:
    return ImageSet(
        [b""] * len(labels),
        np.array(labels),
        ["a", "b"],
        paths,
        {name: np.array(value) for name, value in columns.items()},
    )


def test_the_most_learnable_of_a_class_are_taken_valid_ones_first_and_ties_by_name() -> None:
    images = named([0, 0, 0, 0, 1], ["d", "c", "b", "a", "z"])
    scores, valid = np.array([1.0, 3.0, 1.0, 2.0, 9.0]), np.array([True, False, True, True, True])
    assert most_learnable(images, 0, 4, scores, valid, set()) == [3, 2, 0, 1]
    assert most_learnable(images, 0, 2, scores, valid, {"a"}) == [2, 0]
    with pytest.raises(BadInput, match="class 'b' has 1 training images that are not taken, fewer than 2"):
        most_learnable(images, 1, 2, scores, valid, set())
