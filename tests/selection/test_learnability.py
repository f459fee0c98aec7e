"""What a choice by learnability promises among real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CLASSES, MADE_BY, SIDE, World, image_set_of, job

from distillery.errors import BadInput
from distillery.stages import select_by_learnability
from distillery.storage.images import read_images, write_images
from distillery.students.networks import save_networks


def test_real_images_are_chosen_by_learnability_and_never_twice(world: World, tmp_path: Path) -> None:
    def increment(k: int, **files: Any) -> Any:
        settings = select_by_learnability.Settings(
            seed=0, increment=k, increment_size=3, reference_weight=0.5, min_reference_probability=0.0
        )
        out = tmp_path / f"{k}.parquet"
        run = job("select_by_learnability", settings)
        select_by_learnability.run(settings, data=world.data, **files, images=out, job=run)
        return read_images(out, "x")

    first = increment(1)
    second = increment(2, previous=[tmp_path / "1.parquet"], **world.networks)
    assert first.columns["slot"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert second.columns["slot"].tolist() == [3] * 4 + [4] * 4 + [5] * 4
    assert not set(first.paths) & set(second.paths)
    real = read_images(world.data, "ingest")
    score = world.scorer(0.5).score_stored(torch.from_numpy(real.pixels()), torch.from_numpy(real.labels))
    for label in range(4):
        left = [row for row in range(len(real)) if real.labels[row] == label and real.paths[row] not in first.paths]
        best = sorted(left, key=lambda row: -float(score.learnability[row]))[:3]
        kept = [second.paths[row] for row in range(len(second)) if second.labels[row] == label]
        assert kept == [real.paths[row] for row in best]
    others = tmp_path / "other-students.safetensors"
    save_networks(others, [world.reference], MADE_BY)
    both = increment(2, previous=[tmp_path / "1.parquet"], **world.networks, other_students=others)
    assert both.columns["student_loss"].mean() < second.columns["student_loss"].mean()  # one of them knows the images
    for row, path in enumerate(both.paths):
        own = real.paths.index(path)
        mean = (score.student_loss[own] + score.reference_loss[own]) / 2
        assert both.columns["student_loss"][row] == pytest.approx(float(mean), rel=1e-3, abs=1e-4)
    with pytest.raises(BadInput, match="that are not taken"):
        settings = select_by_learnability.Settings(
            seed=0, increment=2, increment_size=999, reference_weight=0.5, min_reference_probability=0.0
        )
        run = job("select_by_learnability", settings)
        select_by_learnability.run(settings, data=world.data, **world.networks, images=tmp_path / "x.parquet", job=run)


def test_the_first_increments_are_those_of_another_set_and_real_ones_follow(world: World, tmp_path: Path) -> None:
    """The set has soft labels, more slots than are taken, and two real images among others."""
    labels = torch.arange(len(CLASSES)).repeat_interleave(6)
    pixels = torch.randint(0, 256, (len(labels), 1, SIDE, SIDE), dtype=torch.uint8)
    slots = np.tile(np.arange(6)[::-1], len(CLASSES))
    soft = np.eye(len(CLASSES), dtype=np.float32)[labels]
    made = image_set_of(pixels, labels, slot=slots, soft_label=soft)
    settings = {"seed": 0, "increment_size": 2, "reference_weight": 0.5, "min_reference_probability": 0.0}

    def increment(k: int, name: str = "", **files: Any) -> Any:
        block = select_by_learnability.Settings(increment=k, **settings)
        out, run = tmp_path / f"{name}{k}.parquet", job("select_by_learnability", block)
        select_by_learnability.run(block, data=world.data, **files, images=out, job=run)
        return read_images(out, "x")

    best = increment(3, "unseeded", **world.networks)  # with nothing taken
    made.paths[5], made.images[5] = best.paths[0], best.images[0]  # slot 0 of class 0
    write_images(tmp_path / "seed.parquet", made, MADE_BY)
    first, second = (increment(k, seed_images=tmp_path / "seed.parquet") for k in (1, 2))
    for part, k in ((first, 1), (second, 2)):
        assert part.labels.tolist() == [0, 1, 2, 3] * 2
        assert part.columns["slot"].tolist() == [2 * k - 2] * 4 + [2 * k - 1] * 4
        assert part.columns["increment"].tolist() == [k] * 8
        assert part.columns.keys() == {"slot", "increment"}
        for row in range(len(part)):
            (source,) = np.flatnonzero((labels.numpy() == part.labels[row]) & (slots == part.columns["slot"][row]))
            assert part.images[row] == made.images[source] and part.paths[row] == made.paths[source]
    third = increment(3, previous=[tmp_path / f"{k}.parquet" for k in (1, 2)], **world.networks)
    assert third.columns["slot"].tolist() == [4] * 4 + [5] * 4
    assert best.paths[0] not in third.paths  # a real image of the other set is not chosen again
    assert third.paths[0] == best.paths[4] and third.paths[1:4] == best.paths[1:4]
    before = (tmp_path / "1.parquet").read_bytes()
    increment(1, seed_images=tmp_path / "seed.parquet")
    assert (tmp_path / "1.parquet").read_bytes() == before
