"""The small data sets as a workflow: who reads the whitening of images, and who runs again without it."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clone import Clone

CIFAR10 = "experiments/cifar10.yaml"
WHITENING = "data/whitening.safetensors"
SEEING = {"train_experts", "match", "render", "choose_snapshot", "evaluate"}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A copy of the project with labels where CIFAR-10 lies, and nothing in its images."""
    made = Clone.of_project(tmp_path_factory.mktemp("small") / "clone")
    (made.folder / "data/cifar10").mkdir(parents=True)
    for name in ("train", "test"):
        rows = [{"bytes": bytes(8), "path": f"{row}.png"} for row in range(20)]
        table = pa.table({"img": rows, "label": [row % 10 for row in range(20)]})
        pq.write_table(table, made.folder / "data/cifar10" / f"{name}.parquet")
    return made


def reading(clone: Clone, variant: str) -> set[str]:
    """The rules that read the whitening."""
    plan = clone.plan("--config", f"variant={variant}", experiment=CIFAR10)
    assert plan.rules["evaluate"] == 2 * 7  # six methods and all real images, with augmentation and without
    assert all(path.startswith(f"results/cifar10-{variant}/") for path in plan.outputs)
    return {job.rule for job in plan.jobs if any(path.endswith(WHITENING) for path in job.inputs)}


def test_a_choice_of_whitened_images_shows_them_to_matching_and_evaluation_alike(clone: Clone) -> None:
    assert reading(clone, "zca-ipc1") == SEEING


def test_without_that_choice_nothing_is_whitened(clone: Clone) -> None:
    assert reading(clone, "ipc1") == set()
