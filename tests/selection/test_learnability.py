"""What a choice by learnability promises among real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import MADE_BY, World, job

from distillery.errors import BadInput
from distillery.stages import select_by_learnability
from distillery.storage.images import read_images
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
        select_by_learnability.run(
            settings, data=world.data, **world.networks, images=tmp_path / "x.parquet", job=job("s", settings)
        )
