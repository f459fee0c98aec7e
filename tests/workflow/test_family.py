"""The diffusion family as a workflow: its guided methods and its real images give their sets; the rest is planned.

LGD, the evaluation and the tables are run by other tests. What the family adds to them is which files their jobs take:
a plan says that.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from clone import Clone

from distillery.storage.images import read_images
from distillery.storage.tables import read_table

FAMILY = "experiments/smoke-family.yaml"
RESULTS = "results/smoke-family"
MADE = ["igd", "mgd3", "real-by-learnability", "rded", "representation"]
COVERAGE = f"{RESULTS}/analysis/coverage/igd-2.parquet"
BATCH_NORM = f"{RESULTS}/evaluation/mgd3/ipc2/convnet3_bn_w8/small+epochs=3+evaluations=1.parquet"
TARGETS = [*(f"{RESULTS}/distilled/{method}/ipc2.parquet" for method in MADE), COVERAGE, BATCH_NORM]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tree of one real run; nobody changes it."""
    clone = Clone.of_project(tmp_path_factory.mktemp("family") / "finished")
    done = clone.run("snakemake", "--cores", "2", "--configfile", FAMILY, "--", *TARGETS)
    assert done.returncode == 0, done.stdout
    return clone


@pytest.mark.parametrize("method", MADE)
def test_a_method_has_its_set(method: str, finished: Clone) -> None:
    images = read_images(finished.folder / f"{RESULTS}/distilled/{method}/ipc2.parquet", "collect")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.columns["slot"].tolist() == [0, 1, 0, 1]
    assert len(set(images.images)) == 4


def test_a_set_has_its_coverage(finished: Clone) -> None:
    (row,) = read_table(finished.folder / COVERAGE, "measure_coverage").to_pylist()
    assert (row["method"], row["seed"], row["ipc"]) == ("igd", 0, 2)
    assert all(0 <= row[name] <= 1 for name in ("precision", "coverage"))


def test_a_network_with_batch_norm_is_trained_on_a_set(finished: Clone) -> None:
    (row,) = read_table(finished.folder / BATCH_NORM, "evaluate").to_pylist()
    assert (row["network"], row["epoch"], row["images"]) == ("convnet3_bn_w8", 3, 4)
    assert 0 <= row["accuracy"] <= 100


def test_the_rest_takes_what_is_there(finished: Clone) -> None:
    plan = finished.plan(experiment=FAMILY)
    assert plan.rules == Counter(
        discover_modes=1, generate_increment=2, select_increment=2, train_student=1, select=1,
        collect=3, evaluate=13, measure_coverage=6, measure_autoencoder=1, tabulate_accuracy=1, tabulate_statistics=1,
        tabulate_autoencoder=1, tabulate_increments=1, tabulate_coverage=1, plot_accuracy=1, plot_increments=1,
        plot_images=7, plot_cost=1, plot_coverage=1, plot_training=1,
        write_experiment=1, write_report=1,
    )  # fmt: skip
    jobs = [job for job in plan.jobs if job.rule == "generate_increment"]
    first, second = sorted(jobs, key=lambda job: job.outputs)
    assert f"{RESULTS}/distilled/igd/ipc1.parquet" in first.inputs  # the set of its seed
    steering = {f"{RESULTS}/distilled/lgd/modes-2.safetensors", f"{RESULTS}/surrogates/conv/gradients.safetensors"}
    assert steering <= set(second.inputs)
    assert not steering & set(first.inputs)


def test_a_changed_guidance_runs_its_method_again_and_no_training(finished: Clone, tmp_path: Path) -> None:
    tree = finished.copy(tmp_path / "tree")
    tree.change(lambda config: config["methods"]["igd"]["guidance"]["influence"].update(strength=2.0), FAMILY)
    plan = tree.plan("--", *TARGETS, experiment=FAMILY)
    assert plan.rules == Counter(sample=1, collect=1, measure_coverage=1)
    tree.change(lambda config: config["surrogates"]["conv"].update(threshold=0.1), FAMILY)
    plan = tree.plan("--", *TARGETS, experiment=FAMILY)
    assert plan.rules == Counter(select_checkpoints=1, sample=1, collect=1, measure_coverage=1)


def test_sizes_are_nested_but_for_modes_of_their_own(finished: Clone, tmp_path: Path) -> None:
    tree = finished.copy(tmp_path / "tree")
    tree.change(lambda config: config.update(ipc=[2, 3]), FAMILY)
    larger = [f"{RESULTS}/distilled/{method}/ipc3.parquet" for method in ("igd", "mgd3")]
    plan = tree.plan("--", *larger, experiment=FAMILY)
    assert plan.rules == Counter(discover_modes=1, sample=2, collect=2)
    smaller = "distilled/{}/sampled-2-0.parquet"
    assert smaller.format("igd") in plan.text
    assert smaller.format("mgd3") not in plan.text
