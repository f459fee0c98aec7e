"""The shape of a large experiment: planned in seconds, spread over the whole cluster, in files as many as its jobs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from clone import PROJECT
from on_slurm import Cluster

SHARDS = 12
PLAN_RATIO = 8.0
"""Most time of the large plan, in that of a small one beside it: both wait for the same machine."""


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    """`benchmarks/scale.py`, which does the same with more."""
    about = importlib.util.spec_from_file_location("scale", PROJECT / "benchmarks/scale.py")
    assert about is not None and about.loader is not None
    module = importlib.util.module_from_spec(about)
    sys.modules["scale"] = module
    about.loader.exec_module(module)
    return module


def test_a_thousand_classes_are_planned_in_a_few_times_the_time_of_two(scale: ModuleType, tmp_path: Path) -> None:
    small = scale.Scale(classes=2, shards=2, seeds=1, networks=1, ipc=(1,), increment=1)
    scale.build(tmp_path / "small", small)
    scale.build(tmp_path / "scale", scale.Scale())
    before, _ = scale.plan(tmp_path / "small")
    seconds, jobs = scale.plan(tmp_path / "scale")
    after, _ = scale.plan(tmp_path / "small")
    print(f"plan: {seconds:.1f} s for {jobs} jobs; {before:.1f} and {after:.1f} s for a small experiment")
    assert jobs > 500
    assert seconds < PLAN_RATIO * max(before, after)


def test_all_places_of_the_cluster_are_used_and_nothing_is_lost(
    cluster: Cluster, scale: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "scale"
    scale.build(folder, scale.Scale(classes=SHARDS, shards=SHARDS, seeds=1, networks=1, ipc=(1,), increment=1))
    with (folder / "src/distillery/__main__.py").open("a", encoding="utf-8") as no_op:
        no_op.write("import time\ntime.sleep(15 if sys.argv[1] == 'sample' else 0)\n")  # longer than eight submissions
    targets = [f"results/scale/distilled/dit/sampled-1-{shard}.parquet" for shard in range(SHARDS)]
    finished = scale.run(folder, *targets)
    print(finished)
    assert finished.jobs == finished.submissions == SHARDS + 4  # after ingest, autoencoder, latents, generator
    assert finished.at_once == 8  # each has a card, and there are eight
    assert all((folder / target).exists() for target in targets)
    assert not cluster.jobs()
    # A result, a log, a cost, a benchmark and what Snakemake notes of each; no file per image.
    assert finished.files < 20


def test_the_increments_of_every_seed_are_made(cluster: Cluster, scale: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "scale"
    scale.build(folder, scale.Scale(classes=2, shards=2, seeds=2, networks=1, ipc=(1,), increment=1))
    target = "results/scale/seed-1/distilled/lgd/increment-1/images.parquet"
    finished = scale.run(folder, target)
    print(finished)
    assert (folder / target).exists()
