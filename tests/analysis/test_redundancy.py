"""What the redundancy matrix promises: 100 where increments repeat each other, chance where they share nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, CPU, NETWORK, StoppedAt, digits, image_set_of, job
from torch import Tensor

import distillery.storage.resume
from distillery.analysis.redundancy import redundancy_matrix
from distillery.errors import BadInput
from distillery.stages import measure_redundancy
from distillery.storage.images import write_images
from distillery.storage.resume import Resume
from distillery.storage.tables import read_table
from distillery.streams import stream
from distillery.students.settings import Recipe

RECIPE = Recipe(epochs=15, batch_size=8, learning_rate=4e-3)
C = len(CLASSES)


def noisy_prototypes(increment: int, rotation: int = 0, per_class: int = 4) -> tuple[Tensor, Tensor]:
    """Images of one clear pattern per class, the patterns handed on by `rotation` classes: (N, 1, 8, 8) uint8."""
    patterns = torch.randint(0, 2, (C, 1, 8, 8), generator=stream("patterns")) * 200
    labels = torch.arange(C).repeat(per_class)
    noise = torch.randint(0, 56, (len(labels), 1, 8, 8), generator=stream("pattern noise", increment))
    return (patterns[(labels + rotation) % C] + noise).to(torch.uint8), labels


def measured(increments: list[tuple[Tensor, Tensor]], students: int = 1, **options: Any) -> list[dict[str, Any]]:
    arguments: dict[str, Any] = {"recipe": RECIPE, **options}
    return redundancy_matrix(
        torch.cat([pixels for pixels, _ in increments]),
        torch.cat([labels for _, labels in increments]),
        torch.cat([torch.full((len(labels),), number) for number, (_, labels) in enumerate(increments)]),
        classes=CLASSES,
        network=NETWORK,
        students=students,
        seed=0,
        device=CPU,
        **arguments,
    )


def matrix(rows: list[dict[str, Any]]) -> np.ndarray:
    """R[trained_on, tested_on], the mean over students."""
    size = max(row["trained_on"] for row in rows)
    return np.array(
        [
            [
                np.mean([row["accuracy"] for row in rows if (row["trained_on"], row["tested_on"]) == (r, s)])
                for s in range(1, size + 1)
            ]
            for r in range(1, size + 1)
        ]
    )


def test_a_made_case_has_its_known_matrix() -> None:
    """Increments 1 and 2 show the same patterns; 3 shows those of the next class, and is wrong for the others."""
    accuracies = matrix(measured([noisy_prototypes(1), noisy_prototypes(2), noisy_prototypes(3, rotation=1)]))
    assert accuracies.tolist() == [[100, 100, 0], [100, 100, 0], [0, 0, 100]]


def test_equal_increments_give_the_same_everywhere() -> None:
    pixels, labels = (values[::18] for values in digits())
    accuracies = matrix(measured([(pixels, labels)] * 3))
    assert accuracies.min() == accuracies.max() > 60


def test_real_digits_of_one_distribution_repeat_each_other_and_foreign_labels_do_not() -> None:
    pixels, labels = digits()
    first, two = (pixels[:80], labels[:80]), (pixels[80:160], labels[80:160])
    foreign = (pixels[160:240], labels[160:240].roll(7))
    accuracies = matrix(measured([first, two, foreign]))
    assert accuracies[0, 1] > 70 and accuracies[1, 0] > 70
    assert accuracies[0, 2] < 50 and accuracies[1, 2] < 50


def test_random_labels_give_chance_off_the_diagonal() -> None:
    draws = stream("random labels")
    increments = [
        (
            torch.randint(0, 256, (48, 1, 8, 8), generator=draws).to(torch.uint8),
            torch.randint(0, C, (48,), generator=draws),
        )
        for _ in range(4)
    ]
    accuracies = matrix(measured(increments))
    away = accuracies[~np.eye(4, dtype=bool)].mean()
    assert abs(away - 100 / C) < 8  # the mean of twelve cells of 48 images has a standard deviation of about 2


def test_there_is_one_row_per_student_and_pair_of_increments_counted_from_one() -> None:
    rows = measured([noisy_prototypes(1), noisy_prototypes(2)], students=2)
    assert [(row["student"], row["trained_on"], row["tested_on"]) for row in rows] == [
        (student, r, s) for student in (0, 1) for r in (1, 2) for s in (1, 2)
    ]
    assert all(0 <= row["accuracy"] <= 100 for row in rows)


def test_students_of_one_increment_are_networks_of_their_own() -> None:
    pixels, _ = digits()
    labels = torch.randint(C, (80,), generator=stream("labels of chance"))
    rows = measured([(pixels[start : start + 40], labels[start : start + 40]) for start in (0, 40)], students=3)
    off_diagonal = {
        student: tuple(row["accuracy"] for row in rows if row["student"] == student and row["trained_on"] == 1)
        for student in range(3)
    }
    assert len(set(off_diagonal.values())) > 1


def test_a_network_that_diverges_is_no_low_redundancy() -> None:
    """It would answer class 0 to every image, on every increment."""
    hot = RECIPE.model_copy(update={"learning_rate": 1e9, "optimizer": "sgd"})
    with pytest.raises(BadInput, match=r"increment 1/2: the network has diverged.*lower the learning_rate"):
        measured([noisy_prototypes(1), noisy_prototypes(2)], recipe=hot)


def test_a_cell_does_not_depend_on_the_other_increments() -> None:
    pixels, labels = digits()
    parts = [(pixels[start : start + 40], labels[start : start + 40]) for start in (0, 40, 80)]
    assert (matrix(measured(parts))[:2, :2] == matrix(measured(parts[:2]))).all()


@pytest.mark.parametrize("stop", [7, 22])
def test_an_interrupted_measurement_goes_on_where_it_was(stop: int, tmp_path: Path, no_request: None) -> None:
    """Two increments of fifteen epochs each: the stop falls into the first, and into the second."""
    pixels, labels = digits()
    parts = [(pixels[start : start + 40], labels[start : start + 40]) for start in (0, 40)]
    whole = measured(parts)
    left = [stop]

    def stopping(part: str) -> Resume:
        step, left[0] = left[0], left[0] - RECIPE.epochs
        return StoppedAt(tmp_path / part, "a", step)

    with pytest.raises(SystemExit):
        measured(parts, resume=stopping)
    distillery.storage.resume.clear_stop()
    trained = []

    def going_on(part: str) -> Resume:
        resume = Resume(tmp_path / part, "a")
        if accuracies := resume.restore():
            trained.append((part, accuracies[1]["epoch"]))
        return resume

    assert measured(parts, resume=going_on) == whole
    assert trained == ([("student-0-0", 7)] if stop == 7 else [("student-0-0", 15), ("student-0-1", 7)])


def measured_by_stage(tmp_path: Path, slots: np.ndarray | None, cut: str, ipc: int = 4) -> list[dict[str, Any]]:
    """What the stage makes of a set whose two halves have foreign labels, two images per class each."""
    first, two = noisy_prototypes(1, per_class=2), noisy_prototypes(2, rotation=1, per_class=2)
    pixels, labels = (torch.cat(both) for both in zip(first, two, strict=True))
    order = torch.randperm(len(labels), generator=stream("any order"))
    columns = {} if slots is None else {"slot": slots[order.numpy()]}
    write_images(tmp_path / "set.parquet", image_set_of(pixels[order], labels[order], **columns), {})
    settings = measure_redundancy.Settings(
        seed=0, method="dit", ipc=ipc, increment_size=2, cut=cut, network=NETWORK, recipe=RECIPE, students=1
    )
    out = tmp_path / "matrix.parquet"
    run = job("measure_redundancy", settings, [tmp_path / "set.parquet"])
    measure_redundancy.run(settings, images=tmp_path / "set.parquet", matrix=out, job=run)
    rows: list[dict[str, Any]] = read_table(out, "measure_redundancy").to_pylist()
    return rows


def test_the_stage_cuts_a_set_into_increments_by_slot(tmp_path: Path) -> None:
    rows = measured_by_stage(tmp_path, np.repeat(np.arange(4), C), "slots")
    assert matrix(rows).tolist() == [[100, 0], [0, 100]]
    assert {(row["method"], row["seed"], row["network"]) for row in rows} == {("dit", 0, NETWORK)}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["matrix.parquet", "set.parquet"]


def test_the_stage_cuts_a_set_without_increments_at_random(tmp_path: Path) -> None:
    """Images of both halves meet in one part, so that a network knows more of the other part than nothing."""
    drawn = matrix(measured_by_stage(tmp_path, np.repeat(np.arange(4), C), "random"))
    assert drawn.shape == (2, 2) and drawn[0, 1] + drawn[1, 0] > 0


def test_the_stage_cuts_real_images_that_have_no_slots(tmp_path: Path) -> None:
    assert matrix(measured_by_stage(tmp_path, None, "real")).shape == (2, 2)


def test_only_as_many_real_images_are_cut_as_the_size_says(tmp_path: Path) -> None:
    assert matrix(measured_by_stage(tmp_path, None, "real", ipc=2)).shape == (1, 1)
