"""Learning dynamics: known probabilities have known means, deviations, kinds and divergences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, CPU, NETWORK, SIDE, digits, image_set_of, job, stopped_at

from distillery.analysis.learning_dynamics import (
    KINDS,
    Dynamics,
    js_divergence,
    js_of_subsets,
    kinds_of,
    recorded_dynamics,
)
from distillery.analysis.settings import Thresholds
from distillery.stages import measure_learning_dynamics
from distillery.storage.images import write_images
from distillery.storage.tables import read_table
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe

RECIPE = Recipe(epochs=6, batch_size=16, learning_rate=4e-3)
C = len(CLASSES)


def dynamics(*probabilities: list[float]) -> Dynamics:
    """One list per image, a probability per epoch."""
    return Dynamics.of(list(torch.tensor(probabilities).T.log()))


def test_a_constant_probability_has_no_deviation_and_an_alternating_one_has_one_half() -> None:
    both = dynamics([0.7, 0.7, 0.7, 0.7], [0.0, 1.0, 0.0, 1.0])
    assert both.mean == pytest.approx([0.7, 0.5])
    assert both.std == pytest.approx([0.0, 0.5], abs=1e-6)


def test_kinds_follow_the_thresholds_and_every_image_has_one() -> None:
    images = Dynamics(np.array([0.75, 0.74, 0.35, 0.36, 0.9, 0.1]), np.array([0.1, 0.1, 0.1, 0.1, 0.2, 0.3]))
    kinds = [KINDS[kind] for kind in kinds_of(images, Thresholds())]
    assert kinds == ["easy", "unassigned", "hard", "unassigned", "informative", "informative"]


def test_equal_sets_have_no_divergence_and_disjoint_ones_one_bit() -> None:
    draws = np.random.default_rng(0)
    low = Dynamics(draws.uniform(0, 0.4, 500), draws.uniform(0, 0.2, 500))
    high = Dynamics(low.mean + 0.5, low.std)
    assert js_divergence(low, low) == 0
    assert js_divergence(low, high) == pytest.approx(1, abs=0.01)
    assert js_divergence(low, high) == js_divergence(high, low)


def test_a_small_subset_diverges_by_chance_and_a_larger_one_less() -> None:
    draws = np.random.default_rng(0)
    whole = Dynamics(draws.beta(4, 1, 4000), draws.uniform(0, 0.5, 4000))
    labels = np.tile(np.arange(C), 1000)
    small, large = (js_of_subsets(whole, labels, np.full(C, size), 20, ("test",)) for size in (10, 400))
    assert small > 4 * large > 0
    assert js_of_subsets(whole, labels, np.full(C, 10), 20, ("test",)) == small
    assert js_of_subsets(whole, labels, np.full(C, 1000), 2, ("test",)) == 0


def test_every_set_is_recorded_over_one_training_as_if_it_were_alone() -> None:
    pixels, labels = digits()
    trained, other = (pixels[:60], labels[:60]), (pixels[60:90], labels[60:90])
    wrong = (other[0], (other[1] + 1) % C)

    def recorded(*watched: Any) -> list[Dynamics]:
        network = Classifier(NETWORK, CLASSES, Domain(SIDE, 1), ("dynamics",))
        return recorded_dynamics(network, trained, watched, RECIPE, key=("dynamics",), device=CPU)

    first, second, third = recorded(trained, other, wrong)
    assert [len(part.mean) for part in (first, second, third)] == [60, 30, 30]
    assert np.allclose(recorded(other)[0].mean, second.mean, atol=1e-5)
    assert second.mean.mean() > third.mean.mean()


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Training images, and a set of images that are among them under the labels of the next class."""
    pixels, labels = digits()
    write_images(tmp_path / "train.parquet", image_set_of(pixels[:80], labels[:80]), {})
    rows = torch.cat([torch.nonzero(labels[:80] == label)[:3, 0] for label in range(C)])
    foreign = image_set_of(pixels[rows], (labels[rows] + 1) % C, slot=np.tile(np.arange(3), C))
    write_images(tmp_path / "set.parquet", foreign, {})
    return {"data": tmp_path / "train.parquet", "images": tmp_path / "set.parquet"}


def stage(files: dict[str, Path], folder: Path, own: Recipe | None = None, students: int = 2) -> list[Path]:
    settings = measure_learning_dynamics.Settings(
        seed=0,
        methods=["foreign"],
        network=NETWORK,
        recipe=RECIPE,
        own_recipe=own,
        students=students,
        thresholds=Thresholds(easy=0.6, hard=0.4, informative=0.3),
    )
    folder.mkdir(exist_ok=True)
    made = [folder / "dynamics.parquet", folder / "shares.parquet"]
    measure_learning_dynamics.run(
        settings,
        data=files["data"],
        images=[files["images"]],
        dynamics=made[0],
        shares=made[1],
        job=job("measure_learning_dynamics", settings, list(files.values())),
    )
    return made


def test_wrong_labels_are_hard_on_the_original_training_and_learned_on_their_own(
    files: dict[str, Path], tmp_path: Path
) -> None:
    shares = {}
    for name, own in (("original", None), ("own", RECIPE.model_copy(update={"epochs": 60}))):
        rows = read_table(stage(files, tmp_path / name, own, students=1)[1], "test").to_pylist()
        shares[name] = {row["set"]: row for row in rows}
        for row in rows:
            assert sum(row[kind] for kind in KINDS) == pytest.approx(100)
    original = shares["original"]
    assert original["foreign"]["hard"] > 50 > original[""]["hard"]
    assert original["foreign"]["js"] > original["foreign"]["js_of_subset"]
    assert original[""]["js"] is None
    assert shares["own"]["foreign"]["hard"] < original["foreign"]["hard"]


@pytest.mark.parametrize("stop", [2, 6])
def test_a_recording_that_was_stopped_gives_the_same_bytes(
    stop: int, files: dict[str, Path], tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [path.read_bytes() for path in stage(files, tmp_path / "whole")]
    with stopped_at(stop, monkeypatch), pytest.raises(SystemExit):
        stage(files, tmp_path / "halves")
    assert [path.read_bytes() for path in stage(files, tmp_path / "halves")] == whole
    assert not list(tmp_path.rglob("*.resume.safetensors"))
