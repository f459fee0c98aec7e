"""A network from elsewhere whose outputs stand in another order than the classes is refused with the order to set."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from steering import chosen, trained
from tiny import CLASSES, MADE_BY, NETWORK, SIDE, World, job

from distillery.data.reading import ImageTable
from distillery.errors import BadInput
from distillery.stages import train_reference
from distillery.storage.tensors import read_tensors, write_tensors
from distillery.students.networks import Classifier, Domain
from distillery.students.order import better_order, count_answers
from distillery.students.settings import Recipe

RECIPE = Recipe(epochs=1, batch_size=8, learning_rate=1e-3)


def opened(world: World, weights: Path, out: Path, rows: list[int] | None) -> float:
    """Accuracy in percent, on the training images, of weights that are opened as a reference."""
    options: dict[str, Any] = {"seed": 0, "name": "real", "network": NETWORK, "recipe": RECIPE, "pretrained": True}
    settings = train_reference.Settings(**options, rows=rows)
    files = {"images": world.data, "weights": weights, "model": out}
    train_reference.run(
        settings,
        **files,
        by_class=out.with_suffix(".csv"),
        history=out.with_suffix(".parquet"),
        job=job("train_reference", settings, [world.data, weights]),
    )
    return read_tensors(out, "train_reference")[1]["accuracy_on_training_images"]


def turned(world: World, path: Path, order: list[int]) -> Path:
    """The weights of the reference as a bare state dict, with its outputs in another order."""
    state = world.reference.network.state_dict()
    last = list(state)[-2:]
    save_file({name: value[order] if name in last else value for name, value in state.items()}, path)
    return path


@pytest.mark.parametrize("order", [[1, 2, 3, 0], [0, 2, 1, 3], [3, 2, 1, 0]])
def test_the_rows_that_a_refusal_names_mend_it(world: World, order: list[int], tmp_path: Path) -> None:
    weights = turned(world, tmp_path / "turned.safetensors", order)
    with pytest.raises(BadInput, match=r"references\.real\.weights: .*another order than the classes") as refusal:
        opened(world, weights, tmp_path / "out.safetensors", None)
    assert not (tmp_path / "out.safetensors").exists()
    rows = str(refusal.value).rpartition("Set references.real.rows: ")[2]
    assert opened(world, weights, tmp_path / "out.safetensors", eval(rows)) > 90


def test_wrong_rows_of_a_network_in_the_right_order_are_refused(world: World, tmp_path: Path) -> None:
    weights = turned(world, tmp_path / "right.safetensors", [0, 1, 2, 3])
    assert opened(world, weights, tmp_path / "out.safetensors", None) > 90
    with pytest.raises(BadInput, match=r"rows: \[0, 1, 2, 3\]"):
        opened(world, weights, tmp_path / "out.safetensors", [0, 1, 3, 2])


def test_the_accuracy_of_each_class_stands_beside_the_reference(world: World, tmp_path: Path) -> None:
    total = opened(world, turned(world, tmp_path / "w.safetensors", [0, 1, 2, 3]), tmp_path / "out.safetensors", None)
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [row["most_frequent_answer"] for row in rows] == CLASSES
    assert [int(row["images"]) for row in rows] == [100] * 4
    assert np.mean([float(row["accuracy"]) for row in rows]) == pytest.approx(total, abs=3)


def test_a_surrogate_from_elsewhere_that_names_its_outputs_wrongly_is_refused(world: World, tmp_path: Path) -> None:
    checkpoints = trained(world, tmp_path / "checkpoints.safetensors")
    tensors, about = read_tensors(checkpoints, "train_surrogate")
    wrong = tmp_path / "wrong.safetensors"
    write_tensors(wrong, tensors, MADE_BY, **{**about, "classes": ["one", "zero", "two", "three"]})
    with pytest.raises(BadInput, match="that name their outputs zero, one, two, three, or leave checkpoints out"):
        chosen(world, wrong, tmp_path / "gradients.safetensors", external=True)
    write_tensors(wrong, tensors, MADE_BY, **about)
    chosen(world, wrong, tmp_path / "gradients.safetensors", external=True)


# ---- the rule --------------------------------------------------------------------------------------------------------


def counted(probabilities: np.ndarray, images: int, seed: int) -> np.ndarray:
    """Answers (2, classes, classes) of a network that gives each output with these probabilities, label x output."""
    draws = np.random.default_rng(seed)
    return np.stack([draws.multinomial(images, probabilities) for _ in range(2)])


def accurate(classes: int, accuracy: float) -> np.ndarray:
    """Probabilities of a network whose errors are spread evenly."""
    wrong = (1 - accuracy) / (classes - 1)
    return np.full((classes, classes), wrong) + np.eye(classes) * (accuracy - wrong)


@pytest.mark.parametrize(("classes", "accuracy", "images"), [(10, 0.5, 50), (10, 0.9, 10), (100, 0.3, 50)])
def test_two_swapped_classes_of_many_are_recognised(classes: int, accuracy: float, images: int) -> None:
    order = [1, 0, *range(2, classes)]
    for seed in range(20):
        right = counted(accurate(classes, accuracy), images, seed)
        assert better_order(right) is None
        assert better_order(right[:, :, order]) == order


def test_a_weak_network_in_any_order_is_recognised_by_all_its_classes() -> None:
    order = np.random.default_rng(1).permutation(100)
    assert better_order(counted(accurate(100, 0.2)[:, order], 50, 0)) == np.argsort(order).tolist()


@pytest.mark.parametrize("classes", [2, 4, 10, 100])
def test_a_network_of_chance_is_not_refused(classes: int) -> None:
    for seed in range(100):
        assert better_order(counted(np.full((classes, classes), 1 / classes), 50, seed)) is None


def test_a_network_that_answers_a_few_outputs_to_most_images_is_not_refused() -> None:
    """Chains of popular outputs explain more images than the given order, and no class has an output of its own."""
    popular = np.array([[0.0, 0.9, 0.0, 0.1], [0.0, 0.4, 0.5, 0.1], [0.0, 0.7, 0.2, 0.1], [0.0, 0.3, 0.3, 0.4]])
    for seed in range(20):
        assert better_order(counted(popular, 50, seed)) is None


def test_networks_before_training_are_not_refused(world: World) -> None:
    table = ImageTable(world.data)
    for number in range(20):
        classifier = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("untrained", number)).eval()
        assert better_order(count_answers(classifier, table, (number,))) is None


def test_the_order_of_the_classes_of_a_network_does_not_matter(world: World, tmp_path: Path) -> None:
    state = load_file(turned(world, tmp_path / "w.safetensors", [2, 0, 1, 3]))
    classifier = Classifier(NETWORK, [CLASSES[label] for label in (2, 0, 1, 3)], world.reference.domain).eval()
    classifier.network.load_state_dict(state)
    table = ImageTable(world.data)
    counts = count_answers(classifier, table, (0,))
    assert (counts == count_answers(world.reference, table, (0,))).all()
    assert counts.sum() == 4 * 100 and torch.tensor(counts).sum(0).trace() > 360
