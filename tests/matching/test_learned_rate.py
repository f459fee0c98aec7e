"""The step size that trajectory matching learns: in the file of the set, and as the learning rate of networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tiny import MADE_BY, NETWORK, digits, image_set_of, job

from distillery.errors import DamagedArtifact
from distillery.matching.loop import match, snapshot_tensors
from distillery.matching.steps import Optimiser
from distillery.methods.matching import Pixels
from distillery.stages import choose_snapshot, collect, evaluate, render
from distillery.storage.images import read_images, read_learned_rate, write_images
from distillery.storage.resume import Resume
from distillery.storage.tables import read_table
from distillery.storage.tensors import write_tensors
from distillery.students.settings import Protocol, Recipe, Speed

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=0.01, optimizer="sgd", evaluations=1, schedule="constant")
LEARNED = RECIPE.model_copy(update={"learned_rate": True})


class Space:
    """Four grey images that nobody moves."""

    def __init__(self) -> None:
        self.parameters = {"pixels": torch.zeros(4, 1, 16, 16)}
        self.batches: Any = type("Batches", (), {"size": 4})()

    def render(self, step: int) -> torch.Tensor:
        return self.parameters["pixels"]

    def vjp(self, grad_images: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        return {"pixels": grad_images}

    def state(self, step: int) -> dict[str, torch.Tensor]:
        return dict(self.parameters)

    def rendered(self, state: dict[str, torch.Tensor]) -> torch.Tensor:
        return state["pixels"]


class Learning:
    """An objective whose step size grows by one in every step."""

    updates = 1

    def __init__(self) -> None:
        self.rate = 1.0

    def gradient(self, images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        self.rate += 1
        return torch.zeros_like(images), {"loss": 0.0}

    def learned(self) -> dict[str, float]:
        return {"learning_rate": self.rate}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, tensors: dict[str, torch.Tensor]) -> None:
        """Nothing."""


def snapshots(folder: Path) -> Path:
    """A run of two iterations with a snapshot at each."""
    space = Space()
    done = match(
        space,
        Learning(),
        Optimiser(space.parameters, {"pixels": 0.1}, rule="absolute", momentum=0.0),
        torch.arange(4),
        iterations=2,
        every=1,
        resume=Resume(folder / "none", "none", every=1e9),
    )
    path = folder / "snapshots.safetensors"
    about: dict[str, Any] = {"classes": image_set_of(*(part[:4] for part in digits())).classes, "labels": [0, 1, 2, 3]}
    write_tensors(path, snapshot_tensors(done.snapshots), MADE_BY, **about, slots=[0] * 4, channels=1, size=16)
    return path


def test_the_set_has_the_step_size_of_the_snapshot_that_is_kept(tmp_path: Path) -> None:
    method = Pixels(kind="pixel", objective={"kind": "trajectory", "experts": "e"})
    rendering = render.Settings(seed=0, method=method)
    pictures, kept, whole = (tmp_path / f"{name}.parquet" for name in ("rendered", "chosen", "ipc1"))
    render.run(rendering, snapshots=snapshots(tmp_path), images=pictures, job=job("render", rendering))
    images = read_images(pictures, "render")
    assert images.columns["iteration"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert images.columns["learning_rate"].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    choosing = choose_snapshot.Settings(
        seed=0, method="mtt", ipc=1, choose="last", network=NETWORK, recipe=RECIPE, students=1
    )
    outputs = {"images": kept, "choice": tmp_path / "choice.parquet"}
    choose_snapshot.run(choosing, rendered=[pictures], **outputs, job=job("choose_snapshot", choosing))
    collecting = collect.Settings(ipc=1)
    collect.run(collecting, parts=[kept], images=whole, job=job("collect", collecting))
    assert read_learned_rate(whole, "collect") == 3.0
    assert json.loads(pq.read_schema(whole).metadata[b"distillery"])["learning_rate"] == "3.0"


def distilled(folder: Path, name: str, **columns: np.ndarray) -> Path:
    pixels, labels = digits()
    rows = torch.cat([(labels == label).nonzero()[:2, 0] for label in range(4)])
    path = folder / f"{name}.parquet"
    write_images(path, image_set_of(pixels[rows], labels[rows], slot=np.tile([0, 1], 4), **columns), MADE_BY)
    return path


def rates(folder: Path, images: Path, recipe: Recipe) -> list[float]:
    """The learning rate in every epoch of an evaluation."""
    pixels, labels = digits()
    test = folder / "test.parquet"
    write_images(test, image_set_of(pixels[-40:], labels[-40:]), MADE_BY)
    speed = Speed(precision="float32")
    options: dict[str, Any] = {"seed": 0, "method": "m", "ipc": 2, "network": NETWORK, "protocol": "p", "students": 1}
    settings = evaluate.Settings(**options, recipe=recipe, speed=speed)
    outputs = {"evaluations": folder / "evaluations.parquet", "history": folder / "history.parquet"}
    evaluate.run(settings, images=images, test=test, **outputs, job=job("evaluate", settings, [images, test]))
    return [round(row["learning_rate"], 6) for row in read_table(folder / "history.parquet", "evaluate").to_pylist()]


def test_networks_learn_at_the_rate_of_the_set_where_the_protocol_says_so(tmp_path: Path) -> None:
    own, none = distilled(tmp_path, "own", learning_rate=np.full(8, 0.25)), distilled(tmp_path, "none")
    assert set(rates(tmp_path, own, LEARNED)) == {0.25}
    assert set(rates(tmp_path, own, RECIPE)) == {0.01}
    assert set(rates(tmp_path, none, LEARNED)) == {0.01}  # a set without one keeps that of the protocol


def test_several_step_sizes_of_one_set_are_a_damaged_set(tmp_path: Path) -> None:
    path = distilled(tmp_path, "several", learning_rate=np.linspace(0.1, 0.2, 8))
    with pytest.raises(DamagedArtifact, match=r"8 of one set, from 0\.1 to 0\.2"):
        read_learned_rate(path, "collect")


def test_a_protocol_says_in_its_label_that_rates_are_learned() -> None:
    protocol = Protocol(preset="ld3m", learned_rate=True)
    assert protocol.label == "ld3m+learned_rate=True"
    learned = protocol.recipe(network="convnet5", ipc=1, classes=10)
    assert learned.learned_rate and learned.learning_rate == 1e-3
    assert "learned_rate" not in Protocol(preset="ld3m").recipe(network="convnet5", ipc=1, classes=10).model_dump()
