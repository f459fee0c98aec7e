"""A real Slurm for the tests of this folder, and one undisturbed run on this machine to compare with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from clone import Clone, wait_until
from on_slurm import GENERATOR, HERE, SMALL, Cluster, slurm, submit


@pytest.fixture(scope="session")
def running_cluster() -> Iterator[Cluster]:
    """The cluster, installed where it has to be; skips where there can be none."""
    cluster = Cluster()
    started = cluster("start", check=False)
    if started.returncode == 3:
        pytest.skip(started.stderr.strip().splitlines()[-1])
    assert started.returncode == 0, started.stderr
    yield cluster
    cluster("stop", "--purge")


@pytest.fixture(scope="module")
def both_nodes(running_cluster: Cluster) -> None:
    """Both nodes take jobs. A controller that was killed may count a node as idle and give it nothing: start anew."""
    running_cluster("start")
    submit("true", "--nodes=2", "--exclusive", name="both")
    try:
        wait_until(lambda: not running_cluster.jobs(), 30, "a node takes no job")
    except AssertionError:
        running_cluster.clear()
        running_cluster("stop", "--purge")
        running_cluster("start")


@pytest.fixture
def cluster(running_cluster: Cluster, both_nodes: None) -> Iterator[Cluster]:
    """The cluster, whole and idle before the test; and idle after it."""
    running_cluster("start")
    wait_until(running_cluster.idle, 120, f"nodes are not idle: {slurm('sinfo', '-N', '-o', '%N %T %E')}")
    yield running_cluster
    running_cluster.clear()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """The small experiment, finished on this machine; nobody changes it."""
    clone = Clone.of_project(tmp_path_factory.mktemp("slurm") / "undisturbed")
    shutil.copy(HERE / "small.yaml", clone.folder / SMALL)
    done = clone.run("snakemake", "--cores", "2", "--configfile", SMALL)
    assert done.returncode == 0, done.stdout
    return clone


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Clone]:
    """The project before its first run."""
    clone = Clone.of_project(tmp_path / "fresh")
    shutil.copy(HERE / "small.yaml", clone.folder / SMALL)
    yield clone
    _end(clone)


@pytest.fixture
def untrained(undisturbed: Clone, tmp_path: Path) -> Iterator[Clone]:
    """The finished experiment without its generator: one job of some seconds, which saves on its way."""
    clone = undisturbed.copy(tmp_path / "untrained")
    shutil.rmtree(clone.folder / GENERATOR)
    yield clone
    _end(clone)


def _end(clone: Clone) -> None:
    for process in clone.processes():
        process.kill()
    shutil.rmtree(clone.folder, ignore_errors=True)
