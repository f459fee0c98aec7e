"""The diffusion family as a workflow: every kind of method gives its sets, and a change runs alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from clone import Clone

from distillery.artifacts import read_images

FAMILY = "experiments/smoke-family.yaml"
METHODS = ["igd", "lgd", "memory", "mgd3", "random", "real-by-learnability"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tree of one real run."""
    clone = Clone.of_project(tmp_path_factory.mktemp("family") / "finished")
    done = clone.run("snakemake", "--cores", "2", "--configfile", FAMILY)
    assert done.returncode == 0, done.stdout
    return clone


def distilled(clone: Clone, method: str, ipc: int) -> Any:
    return read_images(clone.folder / f"results/smoke-family/distilled/{method}/ipc{ipc}.parquet", "collect")


def test_every_method_has_its_sets_and_its_rows(finished: Clone) -> None:
    for method in METHODS:
        for ipc in (1, 3):
            images = distilled(finished, method, ipc)
            assert images.labels.tolist() == [0] * ipc + [1] * ipc
            assert images.columns["slot"].tolist() == [*range(ipc)] * 2
    for name in ("accuracy", "coverage"):
        table = Path(finished.folder, f"results/smoke-family/tables/{name}.csv")
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["method"] for row in rows} >= set(METHODS)


def test_sizes_are_nested_but_for_modes_of_their_own(finished: Clone) -> None:
    for method in METHODS:
        small, large = distilled(finished, method, 1), distilled(finished, method, 3)
        first = [large.images[row] for row in range(6) if large.columns["slot"][row] == 0]
        assert (first == small.images) is (method != "mgd3"), method


def test_the_loop_begins_with_the_set_of_its_seed(finished: Clone) -> None:
    assert distilled(finished, "lgd", 1).images == distilled(finished, "mgd3", 1).images


def test_afterwards_nothing_is_to_be_done(finished: Clone) -> None:
    assert finished.plan(experiment=FAMILY).nothing


def test_a_changed_guidance_runs_its_method_again_and_no_training(finished: Clone, tmp_path: Path) -> None:
    tree = finished.copy(tmp_path / "tree")
    tree.change(lambda config: config["methods"]["mgd3"].update(mode={"stop": 1}), FAMILY)
    plan = tree.plan(experiment=FAMILY)
    assert {"sample_guided"} <= set(plan.rules) and plan.rules["sample_guided"] == 2
    assert not {"train_generator", "train_surrogate", "select_checkpoints", "discover_modes"} & set(plan.rules)
    tree.change(lambda config: config["surrogates"]["conv"].update(threshold=0.1), FAMILY)
    plan = tree.plan(experiment=FAMILY)
    assert plan.rules["select_checkpoints"] == 1 and "train_surrogate" not in plan.rules
