"""Under a protocol of soft labels every network learns from the teacher, also where redundancy is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from clone import PROJECT
from tiny import CLASSES, CPU, NETWORK, SIDE, World, digits, image_set_of, job
from wildcards import Job

from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.stages import measure_redundancy
from distillery.storage.images import write_images
from distillery.storage.tables import read_table
from distillery.students.networks import Classifier, Domain
from distillery.students.settings import Recipe
from distillery.students.training import train_networks

SOFT = Recipe(epochs=12, batch_size=8, learning_rate=4e-3, labels="soft", teacher="real", temperature=1.0)


def test_redundancy_is_measured_with_the_labels_of_the_teacher(world: World, tmp_path: Path) -> None:
    """The stored labels are of the next class: a network of hard labels would learn them."""
    pixels, labels = digits()
    slots = torch.arange(40) // 4
    rows = torch.stack([(labels == label).nonzero()[:10, 0] for label in range(4)], 1).flatten()
    wrong = image_set_of(pixels[rows], (labels[rows] + 1) % 4, slot=slots.numpy())
    write_images(tmp_path / "set.parquet", wrong, {})

    def diagonal(recipe: Recipe, teacher: Path | None) -> list[float]:
        settings = measure_redundancy.Settings(
            seed=0, method="m", ipc=10, increment_size=5, cut="slots", network=NETWORK, recipe=recipe, students=1
        )
        out = tmp_path / f"{recipe.labels}.parquet"
        inputs = [tmp_path / "set.parquet", *filter(None, [teacher])]
        run = job("measure_redundancy", settings, inputs)
        measure_redundancy.run(settings, images=inputs[0], teacher=teacher, matrix=out, job=run)
        rows = read_table(out, "measure_redundancy").to_pylist()
        return [row["accuracy"] for row in rows if row["trained_on"] == row["tested_on"]]

    hard = SOFT.model_copy(update={"labels": "hard", "teacher": None})
    assert min(diagonal(hard, None)) > 80
    assert max(diagonal(SOFT, world.networks["reference"])) < 20


def test_redundancy_is_measured_with_the_soft_labels_of_the_set(tmp_path: Path) -> None:
    """The soft labels say little of the class, and networks are asked for the class of the largest."""
    pixels, labels = digits()
    slots = torch.arange(40) // 4
    rows = torch.stack([(labels == label).nonzero()[:10, 0] for label in range(4)], 1).flatten()
    recipe = SOFT.model_copy(update={"labels": "set", "teacher": None})

    def diagonal(certainty: float) -> float:
        soft = (certainty * torch.eye(4)[labels[rows]] + (1 - certainty) * torch.eye(4)[(labels[rows] + 1) % 4]).numpy()
        path = tmp_path / f"{certainty}.parquet"
        write_images(path, image_set_of(pixels[rows], labels[rows], slot=slots.numpy(), soft_label=soft), {})
        settings = measure_redundancy.Settings(
            seed=0, method="m", ipc=10, increment_size=5, cut="slots", network=NETWORK, recipe=recipe, students=1
        )
        run = job("measure_redundancy", settings, [path])
        measure_redundancy.run(settings, images=path, matrix=tmp_path / "matrix.parquet", job=run)
        rows_of = read_table(tmp_path / "matrix.parquet", "measure_redundancy").to_pylist()
        return float(min(row["accuracy"] for row in rows_of if row["trained_on"] == row["tested_on"]))

    assert diagonal(1.0) > 80
    assert diagonal(0.51) < 80


def test_the_rule_gives_the_teacher_to_the_stage() -> None:
    config = yaml.safe_load((PROJECT / "config.yaml").read_text("utf-8"))
    wildcards = Job(run="", method=next(iter(config["methods"])))
    assert Inputs(load(config)).redundancy_teacher(wildcards) == []
    teacher = next(iter(config["references"]))
    config["evaluation"]["protocol"] = {"preset": "small", "labels": "soft", "teacher": teacher}
    assert Inputs(load(config)).redundancy_teacher(wildcards) == [f"<results>/reference/{teacher}.safetensors"]


@pytest.mark.parametrize("labels", ["soft", "hard"])
def test_nothing_trains_on_labels_of_the_other_kind(labels: str) -> None:
    recipe = SOFT if labels == "soft" else SOFT.model_copy(update={"labels": "hard", "teacher": None})
    teacher = None if labels == "soft" else lambda epoch, places, images: torch.zeros(1, 8, 4)
    network = Classifier(NETWORK, CLASSES, Domain(SIDE, 1))
    pixels, labels_of = (values[:8] for values in digits())
    with pytest.raises(ValueError, match=f"the labels are {labels}, and there is"):
        train_networks([network], pixels, labels_of, recipe, keys=[("k",)], device=CPU, soft_labels=teacher)
