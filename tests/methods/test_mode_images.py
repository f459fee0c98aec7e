"""What discovery alone promises: real images, as they are, each the nearest to a mode of its class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from clone import PROJECT, SMOKE
from steering import MADE_BY, modes_file
from tiny import CLASSES, World, digits, job
from wildcards import Job

from distillery.data.pixels import to_unit
from distillery.errors import BadInput, ExperimentError
from distillery.guidance.mode_discovery import read_modes
from distillery.plan.inputs import Inputs
from distillery.plan.load import load
from distillery.stages import select_by_modes
from distillery.storage.images import read_images
from distillery.storage.tensors import read_tensors, write_tensors


def experiment(ipc: list[int], **options: Any) -> Any:
    config: dict[str, Any] = yaml.safe_load((PROJECT / SMOKE).read_text("utf-8"))
    config["methods"]["modes"] = {"kind": "mode_images", **options}
    config["ipc"] = ipc
    return load(config)


def test_each_image_is_the_training_image_nearest_to_its_mode(world: World, tmp_path: Path) -> None:
    modes = modes_file(world, tmp_path, 3)
    settings, out = select_by_modes.Settings(ipc=3, pool=None), tmp_path / "selected.parquet"
    files = {"data": world.data, "latents": [tmp_path / "digits.safetensors"], "modes": modes}
    select_by_modes.run(settings, **files, images=out, job=job("select_by_modes", settings))
    made, real = read_images(out, "select_by_modes"), read_images(world.data, "ingest")
    assert made.columns["slot"].tolist() == [slot for slot in range(3) for _ in CLASSES]
    assert made.labels.tolist() == [*range(len(CLASSES))] * 3
    assert len(set(made.paths)) == len(made)
    stored = dict(zip(real.paths, real.images, strict=True))
    assert [stored[path] for path in made.paths] == made.images  # the bytes of the training images
    pixels, labels = digits()
    with torch.no_grad():
        latents = world.codec.encode(to_unit(pixels))[0]
    of_class = read_modes(modes, CLASSES)
    for label in range(len(CLASSES)):
        rows = np.flatnonzero(labels.numpy() == label)
        first = rows[(latents[rows] - of_class[label, 0]).flatten(1).norm(dim=1).argmin()]
        assert made.paths[label] == real.paths[first]


def test_latents_of_other_images_are_refused(world: World, tmp_path: Path) -> None:
    modes = modes_file(world, tmp_path, 2)
    tensors, _ = read_tensors(tmp_path / "digits.safetensors", "encode_latents")
    tensors["labels"] = tensors["labels"].flip(0)
    write_tensors(tmp_path / "other.safetensors", tensors, MADE_BY, classes=CLASSES)
    settings = select_by_modes.Settings(ipc=2, pool=None)
    files = {"data": world.data, "latents": [tmp_path / "other.safetensors"], "modes": modes}
    with pytest.raises(BadInput, match="not the latents of"):
        select_by_modes.run(settings, **files, images=tmp_path / "o.parquet", job=job("select_by_modes", settings))


def test_each_size_is_made_from_modes_of_its_own_and_says_so() -> None:
    planned = experiment([1, 2], modes={"discovery": "mixture", "seed": 3})
    inputs = Inputs(planned)
    assert inputs.selecting_modes(Job(method="modes", ipc=2)) == "<results>/distilled/modes/modes-2.safetensors"
    assert inputs.parts(Job(method="modes", ipc=2)) == ["<results>/distilled/modes/selected-2.parquet"]
    line = planned.lineage("", "modes", 2)
    assert line["nested"] is False
    assert {"encode_latents", "discover_modes", "select_by_modes"} <= {*line["stages"]}
    assert line["settings"]["discover_modes"]["discovery"] == "mixture"
    assert line["settings"]["discover_modes"]["count"] == 2
    assert any(job.startswith("encode_latents") for job in planned.shared_jobs("modes"))


def test_a_set_that_the_training_images_cannot_fill_is_refused() -> None:
    with pytest.raises(ExperimentError, match="chooses among them"):
        experiment([1, 150])
    with pytest.raises(ExperimentError, match=r"methods\.modes\.modes\.pool: 64 is more than the side of the latents"):
        experiment([1], modes={"pool": 64})
