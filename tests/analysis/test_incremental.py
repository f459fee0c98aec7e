"""Incremental dynamics: what a spike is, what it is measured on, and that a stop changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, CPU, NETWORK, digits, image_set_of, job, stopped_at
from torch import Tensor

from distillery.analysis.incremental import incremental_dynamics, look_epochs
from distillery.report.incremental_dynamics import COLUMNS, incremental_table, missing, replicates
from distillery.report.tables import read_rows
from distillery.stages import measure_incremental_dynamics
from distillery.storage.images import write_images
from distillery.storage.tables import read_table
from distillery.students.settings import Recipe

RECIPE = Recipe(epochs=12, batch_size=8, learning_rate=4e-3)
C = len(CLASSES)


def measured(pixels: Tensor, labels: Tensor, parts: Tensor, **options: Any) -> list[dict[str, Any]]:
    increments = int(parts.max()) + 1
    arguments: dict[str, Any] = {"students": 1, "looks": 4, "seed": 0, "recipes": [RECIPE] * increments, **options}
    test = tuple(values[200:260] for values in digits())
    return incremental_dynamics(pixels, labels, parts, test, classes=CLASSES, network=NETWORK, device=CPU, **arguments)


def spikes(rows: list[dict[str, Any]]) -> list[float]:
    import pandas as pd

    every = replicates(pd.DataFrame([{"method": "m", "seed": 0, "network": NETWORK, **row} for row in rows]))
    return every["spike"].dropna().tolist()


def test_images_that_the_student_knows_make_no_spike_and_foreign_labels_do() -> None:
    pixels, labels = (values[:40] for values in digits())
    parts = torch.arange(2).repeat_interleave(40)
    [known] = spikes(measured(torch.cat([pixels, pixels]), torch.cat([labels, labels]), parts))
    [foreign] = spikes(measured(torch.cat([pixels, pixels]), torch.cat([labels, (labels + 1) % C]), parts))
    assert abs(known) < 1e-5
    assert foreign > 0.5


def test_the_loss_is_looked_at_in_the_beginning_evenly_and_at_the_end() -> None:
    assert look_epochs(300, 30) == list(range(0, 301, 10))
    assert look_epochs(3, 3) == [0, 1, 2, 3]
    pixels, labels = (values[:40] for values in digits())
    rows = measured(pixels, labels, torch.arange(2).repeat_interleave(20))
    assert [(row["increment"], row["images"], row["epoch"]) for row in rows] == [
        (increment, 20 * increment, epoch) for increment in (1, 2) for epoch in (0, 3, 6, 9, 12)
    ]


def test_test_images_are_measured_after_an_increment_alone() -> None:
    pixels, labels = (values[:40] for values in digits())
    rows = measured(pixels, labels, torch.arange(2).repeat_interleave(20))
    assert [row["epoch"] for row in rows if not np.isnan(row["test_accuracy"])] == [12, 12]
    assert rows[-1]["test_accuracy"] > 100 / C


def test_images_of_no_part_are_not_trained_on() -> None:
    pixels, labels = (values[:40] for values in digits())
    parts = torch.arange(2).repeat_interleave(20)
    both = torch.cat([pixels, 255 - pixels]), torch.cat([labels, labels])
    with_others = measured(*both, torch.cat([parts, torch.full((40,), -1)]))
    assert [row["loss"] for row in with_others] == [row["loss"] for row in measured(pixels, labels, parts)]


@pytest.fixture
def distilled(tmp_path: Path) -> Path:
    """Four images per class, and test images."""
    pixels, labels = digits()
    rows = torch.cat([torch.nonzero(labels == label)[:4, 0] for label in range(C)])
    images = image_set_of(pixels[rows], labels[rows], slot=np.tile(np.arange(4), C))
    write_images(tmp_path / "set.parquet", images, {})
    write_images(tmp_path / "test.parquet", image_set_of(pixels[200:240], labels[200:240]), {})
    return tmp_path


def stage(folder: Path, out: Path, **options: Any) -> Path:
    defaults: dict[str, Any] = {
        "seed": 0,
        "method": "dit",
        "increments": False,
        "increment_size": 2,
        "network": NETWORK,
        "recipes": [RECIPE, RECIPE],
        "looks": 2,
        "students": 2,
    }
    settings = measure_incremental_dynamics.Settings(**{**defaults, **options})
    images = [folder / "set.parquet", folder / "test.parquet"]
    measure_incremental_dynamics.run(
        settings,
        images=images[0],
        test=images[1],
        dynamics=out,
        job=job("measure_incremental_dynamics", settings, images),
    )
    return out


@pytest.mark.parametrize("stop", [5, 12])
def test_a_measurement_that_was_stopped_gives_the_same_bytes(
    stop: int, distilled: Path, tmp_path: Path, no_request: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stop falls into the training of the first increment, and between two increments."""
    whole = stage(distilled, tmp_path / "whole.parquet").read_bytes()
    with stopped_at(stop, monkeypatch), pytest.raises(SystemExit):
        stage(distilled, tmp_path / "halves.parquet")
    assert stage(distilled, tmp_path / "halves.parquet").read_bytes() == whole
    assert not list(tmp_path.glob("*.resume.safetensors"))


def test_sets_without_increments_are_cut_at_random_by_the_seed_of_the_experiment(
    distilled: Path, tmp_path: Path
) -> None:
    names = ("random", "again", "other", "grown")
    options: list[dict[str, Any]] = [{}, {}, {"seed": 1}, {"increments": True}]
    files = [stage(distilled, tmp_path / name, **option) for name, option in zip(names, options, strict=True)]
    first, again, other, grown = ([row["loss"] for row in read_table(file, "test").to_pylist()] for file in files)
    assert first == again
    assert first not in (other, grown)


def test_a_set_smaller_than_an_increment_gives_no_rows_and_the_table_says_so(distilled: Path, tmp_path: Path) -> None:
    small = stage(distilled, tmp_path / "small", increment_size=5, recipes=[RECIPE])
    one = stage(distilled, tmp_path / "one", method="lgd", increment_size=4, recipes=[RECIPE])
    rows = read_rows([small, one], COLUMNS, "measure_incremental_dynamics")
    assert missing(rows, ["dit", "lgd"], "dit", 5) == [
        "dit: not measured, its smallest class has fewer than the 5 images of an increment",
        "lgd: one increment, so there is no spike",
    ]
    table = incremental_table(rows, ["dit", "lgd"], "dit")
    assert table["method"].unique().tolist() == ["lgd"]
    assert table["spike_mean"].isna().all()
