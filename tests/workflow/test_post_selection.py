"""Sets that are made of other sets, as a workflow: the best of several, and real images after those of a method."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from clone import Clone

from distillery.storage.images import read_images
from distillery.storage.tables import read_table

EXPERIMENT = "experiments/own.yaml"
RESULTS = "results/own"
OWN: dict[str, Any] = {
    "name": "own",
    "dataset": {
        "source": {"kind": "digits"},
        "resolution": 16,
        "channels": "grey",
        "classes": ["0", "7"],
        "holdout": {"fraction": 0.5},
        "validation": {"fraction": 0.2},
    },
    "references": {"real": {"network": "convnet2_w8", "training": {"epochs": 1}}},
    "methods": {
        "random": {"kind": "random"},
        "hybrid": {
            "kind": "real_by_learnability",
            "reference": "real",
            "increment_size": 1,
            "seed": "random",
            "seed_increments": 2,
            "student": {"protocol": {"preset": "small", "epochs": 3}},
        },
        "best": {"kind": "best_of", "methods": ["random", "hybrid"], "students": 1},
    },
    "ipc": [3],
    "evaluation": {"networks": ["convnet2_w8"], "protocol": {"preset": "small", "epochs": 3}, "full_data": False},
}
MADE = ["random", "hybrid", "best"]
TARGETS = [f"{RESULTS}/distilled/{method}/ipc3.parquet" for method in MADE]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The tree of one real run; nobody changes it."""
    clone = Clone.of_project(tmp_path_factory.mktemp("post") / "finished")
    (clone.folder / EXPERIMENT).write_text(yaml.safe_dump(OWN), "utf-8")
    done = clone.run("snakemake", "--cores", "2", "--configfile", EXPERIMENT, "--", *TARGETS)
    assert done.returncode == 0, done.stdout
    return clone


def images_of(clone: Clone, method: str, ipc: int = 3) -> Any:
    return read_images(clone.folder / f"{RESULTS}/distilled/{method}/ipc{ipc}.parquet", "collect")


def test_a_set_begins_with_images_of_another_and_goes_on_with_real_ones(finished: Clone) -> None:
    hybrid, random = images_of(finished, "hybrid"), images_of(finished, "random", 2)
    assert hybrid.labels.tolist() == [0, 0, 0, 1, 1, 1] and hybrid.columns["slot"].tolist() == [0, 1, 2] * 2
    assert [hybrid.images[row] for row in (0, 1, 3, 4)] == [*random.images]
    real = read_images(finished.folder / RESULTS / "data/train.parquet", "ingest")
    assert {hybrid.images[2], hybrid.images[5]} <= {*real.images} and len({*hybrid.images}) == 6
    folder = finished.folder / RESULTS / "distilled/hybrid"
    assert [path.parent.name for path in folder.glob("*/student.safetensors")] == ["increment-2"]


def test_the_best_set_is_one_of_its_methods(finished: Clone) -> None:
    rows = read_table(finished.folder / RESULTS / "distilled/best/choice-3.parquet", "choose_set").to_pylist()
    assert [row["candidate"] for row in rows] == ["random", "hybrid"]
    (kept,) = (row for row in rows if row["kept"])
    assert kept["accuracy"] == max(row["accuracy"] for row in rows)
    assert [*images_of(finished, "best").images] == [*images_of(finished, kept["candidate"]).images]


def test_only_the_choice_and_no_set_reads_validation_images(finished: Clone) -> None:
    plan = finished.plan("--forceall", "--", *TARGETS, experiment=EXPERIMENT)
    validation, test = (f"{RESULTS}/data/{name}.parquet" for name in ("validation", "test"))
    assert {job.rule for job in plan.jobs if validation in job.inputs} == {"choose_set"}
    assert not [job.rule for job in plan.jobs if test in job.inputs]


def test_a_finished_run_has_nothing_to_do_and_another_choice_makes_no_set_again(
    finished: Clone, tmp_path: Path
) -> None:
    tree = finished.copy(tmp_path / "tree")
    assert tree.plan("--", *TARGETS, experiment=EXPERIMENT).nothing
    tree.change(lambda config: config["methods"]["best"].update(students=2), EXPERIMENT)
    assert tree.plan("--", *TARGETS, experiment=EXPERIMENT).rules == Counter(choose_set=1, collect=1)
