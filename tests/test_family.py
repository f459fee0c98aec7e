"""The diffusion family as a workflow: every kind of method gives its set, and a change runs alone.

What follows a set (evaluation, tables of accuracy, figures) is the same for every method and is looked at elsewhere:
here it is planned, and the sets with their coverage are made.
"""

from __future__ import annotations

import csv
from collections import Counter
from typing import Any

import numpy as np
import pytest
from clone import Clone

from distillery.artifacts import read_images

FAMILY = "experiments/smoke-family.yaml"
METHODS = ["igd", "lgd", "mgd3", "random", "real-by-learnability"]
TABLE = "results/smoke-family/tables/coverage.csv"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tree of one real run."""
    clone = Clone.of_project(tmp_path_factory.mktemp("family") / "finished")
    done = clone.run("snakemake", "--cores", "2", "--configfile", FAMILY, "--", TABLE)
    assert done.returncode == 0, done.stdout
    return clone


def distilled(clone: Clone, method: str, ipc: int = 2) -> Any:
    return read_images(clone.folder / f"results/smoke-family/distilled/{method}/ipc{ipc}.parquet", "collect")


def test_every_method_has_its_set_and_its_row(finished: Clone) -> None:
    for method in METHODS:
        images = distilled(finished, method)
        assert images.labels.tolist() == [0, 0, 1, 1]
        assert images.columns["slot"].tolist() == [0, 1, 0, 1]
    with (finished.folder / TABLE).open(newline="") as file:
        assert {row["method"] for row in csv.DictReader(file)} == set(METHODS)


def test_the_loop_begins_with_the_set_of_its_seed(finished: Clone) -> None:
    loop, seed = distilled(finished, "lgd"), distilled(finished, "mgd3", ipc=1)
    assert loop.take(np.flatnonzero(loop.columns["slot"] == 0)).images == seed.images


def test_afterwards_only_what_follows_the_sets_is_to_be_done(finished: Clone) -> None:
    plan = finished.plan(experiment=FAMILY)
    assert plan.rules == Counter(
        evaluate=len(METHODS), tabulate_accuracy=1, tabulate_statistics=1, plot_accuracy=1, tabulate_increments=1,
        plot_increments=1, measure_autoencoder=1, tabulate_autoencoder=1,
    )  # fmt: skip


def test_a_changed_guidance_runs_its_method_again_and_no_training(finished: Clone, tmp_path: Any) -> None:
    tree = finished.copy(tmp_path / "tree")
    tree.change(lambda config: config["methods"]["igd"]["influence"].update(strength=2.0), FAMILY)
    plan = tree.plan("--", TABLE, experiment=FAMILY)
    assert plan.rules == Counter(sample_guided=1, collect=1, measure_coverage=1, tabulate_coverage=1)
    tree.change(lambda config: config["surrogates"]["conv"].update(threshold=0.1), FAMILY)
    plan = tree.plan("--", TABLE, experiment=FAMILY)
    assert plan.rules["select_checkpoints"] == 1
    assert not {"train_surrogate", "train_generator", "finetune_generator", "discover_modes"} & set(plan.rules)


def test_sizes_are_nested_but_for_modes_of_their_own(finished: Clone, tmp_path: Any) -> None:
    tree = finished.copy(tmp_path / "tree")
    tree.change(lambda config: config.update(ipc=[2, 3]), FAMILY)
    plan = tree.plan("--", TABLE, experiment=FAMILY)
    guided = {output for output in plan.outputs if "/igd/" in output or "/mgd3/" in output}
    made = {output.removeprefix("results/smoke-family/distilled/") for output in guided if "/distilled/" in output}
    assert {output for output in made if "ipc2" in output or "modes-2" in output} == set()
    assert {output for output in made if "modes-" in output} == {"mgd3/modes-3.safetensors"}
    smaller = "distilled/{}/sampled-2-0.parquet"
    assert smaller.format("igd") in plan.text
    assert smaller.format("mgd3") not in plan.text
